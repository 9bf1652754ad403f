"""Train by a recipe of this project on a GPU, in PyTorch (`pip install torch` first).

Network, recipe, augmentation and optimizer are those of `arvinet.pretrain` and `arvinet.transfer`. The images lie in the
GPU's memory, and a whole step, from drawing the batch to the new weights, is one CUDA graph. What goes in and what comes
out are arrays under the names of the Keras layers. Without a GPU it runs too, slowly. A run keeps no state to resume from:
it takes minutes.
"""
import math, sys
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import keras
import numpy as np
import torch
import torch.nn.functional as F
from fastcore.script import call_parse

from arvinet.architecture import CIFAR100_MEAN, CIFAR100_STD, ArviNet
from arvinet.data import load
from arvinet.pretraining import Triangle, _about, _built_on, _network, _phases, _value, evaluate, get_recipe, machine, write_json
from arvinet.transfer import _network as _transfer_network, fit_head, plan

device = 'cuda' if torch.cuda.is_available() else 'cpu'
torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
channel_mean, channel_std = (torch.tensor(v, device=device) for v in (CIFAR100_MEAN, CIFAR100_STD))
statistics = ('moving_mean', 'moving_variance')

def weights_of(model):
    "Arrays of a Keras model as tensors; filters become (filters, channels, height, width), channels last in memory"
    def put(w):
        t = torch.tensor(np.asarray(w), dtype=torch.float32, device=device)
        return t.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t
    return {f'{l.name}/{w.name}': put(w) for l in model.layers for w in l.weights}

def into(model, weights):
    "Put tensors back into a Keras model"
    for l in model.layers:
        for w in l.weights:
            t = weights[f'{l.name}/{w.name}'].detach().cpu()
            w.assign((t.permute(2, 3, 1, 0) if t.ndim == 4 else t).numpy())
    return model

def convolve(x, kernel, stride, bias=None):
    "A convolution padded as TensorFlow's 'same' pads"
    size = kernel.shape[2]
    if stride == 1: return F.conv2d(x, kernel, bias, padding=size // 2)
    both = [max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in (x.shape[3], x.shape[2])]
    pads = [p for b in both for p in (b // 2, b - b // 2)]
    return F.conv2d(F.pad(x, pads) if any(pads) else x, kernel, bias, stride)

def folded(weights, dtype=torch.bfloat16):
    "Filters and biases with the batch norms' moving statistics worked in"
    found = {k: weights[k] for k in ('logits/kernel', 'logits/bias')}
    for name in [k for k, w in weights.items() if w.ndim == 4]:
        conv = name.removesuffix('/kernel'); norm = conv.replace('_conv', '_norm')
        scale = weights[f'{norm}/gamma'] * torch.rsqrt(weights[f'{norm}/moving_variance'] + 1e-5)
        found[name] = (weights[name] * scale[:, None, None, None]).to(dtype)
        found[f'{conv}/bias'] = (weights[f'{norm}/beta'] - weights[f'{norm}/moving_mean'] * scale).to(dtype)
    return found

def network(weights, x, momentum=None, dtype=torch.bfloat16):
    "Means of the last stage's maps, and logits, of images (N, H, W, 3) in 0..255; a momentum trains, none takes folded weights"
    x = ((x.float() / 255 - channel_mean) / channel_std).to(dtype).permute(0, 3, 1, 2)
    def unit(x, name, stride=1, end=''):
        conv, norm = f'{name}_conv{end}', f'{name}_norm{end}'
        if momentum is None: return convolve(x, weights[f'{conv}/kernel'], stride, weights[f'{conv}/bias'])
        x = convolve(x, weights[f'{conv}/kernel'].to(dtype), stride)
        return F.batch_norm(x, *(weights[f'{norm}/{k}'] for k in (*statistics, 'gamma', 'beta')), training=True, momentum=momentum, eps=1e-5)
    x = F.relu(unit(x, 'stem'), inplace=True)
    for stage in range(1, 5):
        block = 1
        while f'stage{stage}_block{block}_conv1/kernel' in weights:
            name, stride = f'stage{stage}_block{block}', 2 if stage > 1 and block == 1 else 1
            y = unit(F.relu(unit(x, name, stride, 1), inplace=True), name, 1, 2)
            if f'{name}_shortcut_conv/kernel' in weights: x = unit(x, f'{name}_shortcut', stride)
            x, block = F.relu(y + x, inplace=True), block + 1
    means = x.float().mean((2, 3))
    return means, means @ weights['logits/kernel'] + weights['logits/bias']

def orthogonalize(x, steps=3):
    "As `arvinet.pretraining.orthogonalize`, for matrices (K, filters, fan-in) at once"
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    gram, product = x.mT @ x if tall else x @ x.mT, None
    eye = torch.eye(gram.shape[1], device=x.device)
    for step in range(steps):
        q = a * eye + b * gram + c * gram @ gram
        product = q if product is None else product @ q
        if step < steps - 1: gram = q @ gram @ q
    return x @ product if tall else product @ x

class Muon:
    "As `arvinet.pretraining.Muon`; filters of one shape are updated together"
    def __init__(self, weights, recipe):
        self.weights, self.recipe = weights, recipe
        self.names = [k for k in weights if k.split('/')[1] not in statistics]
        self.vectors, self.dense = ([k for k in self.names if weights[k].ndim == rank] for rank in (1, 2))
        self.groups = {}
        for k in self.names:
            if weights[k].ndim == 4: self.groups.setdefault(tuple(weights[k].shape), []).append(k)
        self.vector_momentum = torch.zeros(sum(weights[k].numel() for k in self.vectors), device=device)
        self.dense_momenta = {k: torch.zeros_like(weights[k]) for k in self.dense}
        self.group_momenta = {shape: torch.zeros(len(names), shape[0], math.prod(shape[1:]), device=device) for shape, names in self.groups.items()}

    def state(self): return [self.vector_momentum, *self.dense_momenta.values(), *self.group_momenta.values()]

    @torch.no_grad()
    def update(self, gradients, rate):
        r, w, g = self.recipe, self.weights, dict(zip(self.names, gradients))
        flat = torch.cat([g[k] for k in self.vectors])
        self.vector_momentum.mul_(r.momentum).add_(flat)
        step = (flat + r.momentum * self.vector_momentum) * (rate * r.norm_rate)
        torch._foreach_sub_([w[k] for k in self.vectors], list(step.split([w[k].numel() for k in self.vectors])))
        for k in self.dense:
            d = g[k] + r.head_decay * w[k]
            self.dense_momenta[k].mul_(r.momentum).add_(d)
            w[k].sub_((d + r.momentum * self.dense_momenta[k]) * (rate * r.head_rate))
        for shape, names in self.groups.items():
            rows = lambda tensors: torch.stack([t.permute(0, 2, 3, 1).reshape(shape[0], -1) for t in tensors])
            new_gradients, old, momentum = rows([g[k] for k in names]), rows([w[k] for k in names]), self.group_momenta[shape]
            momentum.mul_(r.momentum).add_(new_gradients)
            direction = orthogonalize(new_gradients + r.momentum * momentum)
            old = old * (shape[0]**.5 / old.flatten(1).norm(dim=1))[:, None, None] - direction * (rate * r.filter_rate)
            for k, new in zip(names, old): w[k].copy_(new.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2))

def reflect(i, n): return n - 1 - (n - 1 - i.abs()).abs()

def pick(images, index, flipped, shift):
    "Images of an index, mirrored where told and shifted at random, as `arvinet.data.shift_flip` does it"
    height, width = images.shape[1:3]
    by = torch.randint(-shift, shift + 1, (2, len(index), 1), device=device)
    rows, columns = torch.arange(height, device=device)[None], torch.arange(width, device=device)[None].expand(len(index), -1)
    columns = torch.where(flipped[:, None] == 1, width - 1 - columns, columns)
    rows, columns = reflect(rows + by[0], height), reflect(columns + by[1], width)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]

def cut_mix(x, y, share):
    "As `arvinet.data.cut_mix` with alpha 1, for a share of the images"
    n, inside = len(x), []
    side = torch.rand(n, device=device).sqrt()
    for axis in (1, 2):
        length = x.shape[axis]; sides = (side * length).round().long()[:, None]
        start, at = torch.randint(0, length, (n, 1), device=device) - sides // 2, torch.arange(length, device=device)[None]
        inside.append((at >= start) & (at < start + sides))
    chosen = torch.rand(n, device=device) < share
    inside = inside[0][:, :, None] & inside[1][:, None, :] & chosen[:, None, None]
    pasted = inside.float().mean((1, 2))[:, None]
    return torch.where(inside[..., None], x.roll(1, 0), x), y * (1 - pasted) + y.roll(1, 0) * pasted

def rates_of(recipe, steps): return Triangle(recipe.learning_rate, steps * recipe.epochs, recipe.warmup)(np.arange(steps * recipe.epochs + 1))

class Phase:
    "The epochs of one image size"
    def __init__(self, weights, muon, images, labels, sides, recipe, steps, mirror, teacher=None, dtype=torch.bfloat16):
        self.weights, self.muon, self.images, self.labels, self.sides, self.recipe, self.mirror, self.dtype = weights, muon, images, labels, sides, recipe, mirror, dtype
        self.teacher, self.shift, self.classes = teacher, round(recipe.shift * images.shape[1] / 32), weights['logits/bias'].shape[0]
        self.rates = torch.tensor(rates_of(recipe, steps).numpy(), device=device)
        counter = lambda *shape: torch.zeros(shape, dtype=torch.int64, device=device)
        self.order, self.at, self.count, self.epoch = counter(steps, recipe.batch_size), counter(1), counter(1), counter()
        self.share, self.sums = torch.zeros((), device=device), torch.zeros(2, device=device)
        self.trained = [weights[k].requires_grad_(True) for k in muon.names]
        self.graph = self.capture() if device == 'cuda' else None

    def step(self):
        r = self.recipe
        with torch.no_grad():
            index, rate = self.order.index_select(0, self.at)[0], self.rates.index_select(0, self.count)[0]
            x = pick(self.images, index, (self.sides[index] + self.epoch) % 2 * self.mirror, self.shift).float()
            y = (self.labels[index][:, None] == torch.arange(self.classes, device=device)).float()
            if r.cutmix: x, y = cut_mix(x, y, self.share)
            if self.teacher: y = y * (1 - r.teacher_share) + r.teacher_share * torch.softmax(network(self.teacher, x, dtype=self.dtype)[1] / r.teacher_temperature, 1)
            y = y * (1 - r.label_smoothing) + r.label_smoothing / self.classes
        logits = network(self.weights, x, .1, self.dtype)[1]
        loss = -(y * torch.log_softmax(logits, 1)).sum(1).mean()
        self.muon.update(torch.autograd.grad(loss, self.trained), rate)
        with torch.no_grad():
            self.sums.add_(torch.stack([loss.detach(), (logits.argmax(1) == y.argmax(1)).float().mean()]))
            self.at.add_(1); self.count.add_(1)

    def capture(self):
        "The step as a CUDA graph; the steps that warm it up are undone"
        state = [*self.weights.values(), *self.muon.state(), self.at, self.count, self.sums]
        kept, stream, graph = [t.detach().clone() for t in state], torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3): self.step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph): self.step()
        with torch.no_grad():
            for t, k in zip(state, kept): t.copy_(k)
        return graph

    def run(self, order, epoch, share):
        "One epoch: mean loss and accuracy"
        self.order.copy_(torch.as_tensor(order)); self.epoch.fill_(epoch); self.count.fill_(epoch * len(order)); self.share.fill_(share)
        self.at.zero_(); self.sums.zero_()
        for _ in range(len(order)): self.graph.replay() if self.graph else self.step()
        return [float(v) / len(order) for v in self.sums]

def smaller(x, size):
    "As `arvinet.data.resize`"
    x = torch.as_tensor(x)
    if x.shape[1] == size: return x.to(device)
    def part(x): return F.interpolate(x.to(device).float().permute(0, 3, 1, 2), (size, size), mode='bilinear', antialias=True).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return torch.cat([part(x[i:i + 2000]).contiguous() for i in range(0, len(x), 2000)])

def train(weights, data, recipe, teacher=None, report=lambda row: None, dtype=torch.bfloat16):
    "Train weights in place by a recipe; gives the history"
    unlike = [f'{k}={getattr(recipe, k)!r}' for k, ok in dict(optimizer=('muon',), schedule=('linear',), flip=('alternating', 'none'), cutout=(0,), mixup=(0,), cutmix=(0, 1), average=(0,)).items() if getattr(recipe, k) not in ok]
    if unlike: raise ValueError(f"{', '.join(unlike)}: not written for the GPU; use arvinet_pretrain")
    torch.manual_seed(recipe.seed)
    n, muon, history = len(data.x_train), Muon(weights, recipe), []
    labels, sides = torch.as_tensor(data.y_train).long().to(device), torch.as_tensor(np.random.default_rng(recipe.seed).integers(0, 2, n)).to(device)
    steps = n // recipe.batch_size
    rates = rates_of(recipe, steps)
    for side, mixes, first, last in _phases(recipe, 0, recipe.epochs):
        phase = Phase(weights, muon, smaller(data.x_train, side), labels, sides, recipe, steps, int(recipe.flip != 'none'), teacher, dtype)
        for epoch in range(first, last):
            start, order = perf_counter(), np.random.default_rng((recipe.seed, epoch)).permutation(n)[:steps * recipe.batch_size]
            loss, accuracy = phase.run(order.reshape(steps, -1), epoch, recipe.mix_share if mixes else 0.)
            seconds = perf_counter() - start
            if not np.isfinite(loss): raise FloatingPointError(f'the loss is no longer a number in epoch {epoch + 1}: lower the rates')
            history.append(dict(epoch=epoch + 1, image_size=side, learning_rate=float(rates[(epoch + 1) * steps]), seconds=round(seconds, 2), images_per_second=round(steps * recipe.batch_size / seconds, 1), accuracy=accuracy, loss=loss))
            report(history[-1])
    return history

@torch.no_grad()
def adapted(weights, data, seed):
    "Batch norm's statistics taken anew from 40 batches of augmented images, then a head on the features: the start of fine-tuning"
    rng, images, mirror = np.random.default_rng(seed), smaller(data.x_train, data.x_train.shape[1]), int(data.mirror)
    for k in range(40):
        index, flipped = (torch.as_tensor(v).to(device) for v in (rng.integers(0, len(images), 250), rng.integers(0, 2, 250) * mirror))
        network(weights, pick(images, index, flipped, images.shape[1] // 8), 1 / (k + 1))
    frozen = folded(weights)
    x = np.concatenate([network(frozen, images[i:i + 1000])[0].cpu().numpy() for i in range(0, len(images), 1000)])
    kernel, bias = fit_head(x, data.y_train, len(data.class_names))
    return weights | {'logits/kernel': torch.tensor(kernel, device=device), 'logits/bias': torch.tensor(bias, device=device)}, float(((x @ kernel + bias).argmax(1) == data.y_train).mean())

@call_parse
def main(
    data:str='cifar100', # Data set by name
    recipe:str='best', # As in arvinet_pretrain
    change:str='', # As in arvinet_pretrain
    how:str='', # 'scratch' or 'finetune': train as `arvinet.transfer` does, by its plan
    variant:str='S', # With --how: 'S' or 'M'
    epochs:int=0, # With --how: default by the number of images
    name:str='gpu', # Of the run
    folder:str=None, # For record and weights; default checkpoints/NAME
):
    "Train on a GPU by a recipe, or as a transfer; the weights and the run record go to a folder"
    out = Path(folder or Path('checkpoints')/name); out.mkdir(parents=True, exist_ok=True)
    images = load(data); classes = len(images.class_names)
    changes = {k: _value(k, v) for k, v in (c.split('=', 1) for c in change.split())}
    if how: plan_ = plan(images, how, variant, epochs or None, **changes); net, built = _transfer_network(variant, how == 'finetune', (4,), classes, plan_.seed), _built_on(backbone=(variant, how == 'finetune'))
    else:
        plan_ = get_recipe(recipe, **changes)
        net, built = _network(plan_, classes, 'float32'), _built_on(start=(plan_.variant, plan_.start), teacher=(plan_.teacher_variant, plan_.teacher))
    record = dict(name=name, status='running', started=datetime.now(timezone.utc).isoformat(timespec='seconds'), program='tools/train_on_gpu.py')
    weights, row = weights_of(net), []
    if how == 'finetune':
        start = perf_counter(); weights, accuracy = adapted(weights, images, plan_.seed)
        row = [dict(epoch=0, seconds=round(perf_counter() - start, 2), accuracy=accuracy)]
    teacher = folded(weights_of(ArviNet(plan_.teacher_variant, plan_.teacher, True, classes, classifier_activation=None))) if plan_.teacher else None
    history = row + train(weights, images, plan_, teacher, lambda r: print('  '.join(f'{k} {v:.4g}' for k, v in r.items()), file=sys.stderr))
    into(net, weights).save_weights(out/'final.weights.h5')
    scores = evaluate(net, images.x_test, images.y_test) if len(images.x_test) else {}
    card = dict(accelerators=[torch.cuda.get_device_name()]) if device == 'cuda' else {}
    about = machine(); about['versions'] |= dict(torch=torch.__version__)
    write_json(out/'record.json', record | dict(status='finished', recipe=plan_.__dict__, seed=plan_.seed, built_on=built, data=_about(images), precision='mixed_bfloat16', **about | card, history=history, scores=scores,
        seconds=round(sum(h['seconds'] for h in history), 1), weights_sha256=sha256((out/'final.weights.h5').read_bytes()).hexdigest(), **(dict(how=how, variant=variant) if how else {})))
    print(f"{name}: {scores}")
