"""The steps of a recipe in PyTorch: arrays in, arrays out, with numpy and PyTorch alone.

    python tools/gpu_steps.py FOLDER

reads `job.npz` and `images.npz`, which `train_on_gpu.py` wrote to the folder, and writes `trained.npz`, of which that
tool makes weights and record. The images lie in the memory of the GPU, and a whole step, from drawing the batch to
the new weights, is one CUDA graph. Without a GPU it runs too, slowly. No state is kept: a run takes minutes.
"""
import json, math, os, platform, sys
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

device = 'cuda' if torch.cuda.is_available() else 'cpu'
torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
statistics = 'moving_mean', 'moving_variance'

# Weights, under the names of the Keras layers

def to_torch(array):
    "A weight as PyTorch has it: filters are (filters, channels, height, width), channels last in memory"
    t = torch.tensor(np.asarray(array), dtype=torch.float32, device=device)
    return t.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t

def to_keras(tensor):
    "A weight as Keras has it"
    t = tensor.detach().cpu()
    return (t.permute(2, 3, 1, 0) if t.ndim == 4 else t).contiguous().numpy()

def is_trained(name): return not name.startswith('image/') and name.split('/')[1] not in statistics

# The network

def convolve(x, kernel, stride):
    "A convolution padded as TensorFlow's 'same' pads"
    size = kernel.shape[2]
    if stride == 1: return F.conv2d(x, kernel, padding=size // 2)
    both = [max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in (x.shape[3], x.shape[2])]
    pads = [p for b in both for p in (b // 2, b - b // 2)]
    return F.conv2d(F.pad(x, pads) if any(pads) else x, kernel, stride=stride)

def conv_norm(weights, x, name, stride=1, end='', momentum=None):
    "A convolution and its batch norm; a momentum trains, none takes the moving statistics"
    norm = [weights[f'{name}_norm{end}/{k}'] for k in (*statistics, 'gamma', 'beta')]
    x = convolve(x, weights[f'{name}_conv{end}/kernel'].to(x.dtype), stride)
    return F.batch_norm(x, *norm, training=momentum is not None, momentum=momentum or 0., eps=1e-5)

def network(
    weights, # Tensors by name, the mean and deviation of the channels among them
    x, # Images (N, H, W, 3) in 0..255
    momentum=None, # Of the moving statistics; None for inference
    dtype=torch.bfloat16, # Of the convolutions
): # Logits (N, classes), float32
    "ArviNet with its head"
    x = ((x.float() / 255 - weights['image/mean']) / weights['image/std']).to(dtype).permute(0, 3, 1, 2)
    x = F.relu(conv_norm(weights, x, 'stem', momentum=momentum))
    for stage in range(1, 5):
        block = 1
        while f'stage{stage}_block{block}_conv1/kernel' in weights:
            name, stride = f'stage{stage}_block{block}', 2 if stage > 1 and block == 1 else 1
            y = F.relu(conv_norm(weights, x, name, stride, 1, momentum))
            y = conv_norm(weights, y, name, 1, 2, momentum)
            shortcut = f'{name}_shortcut'
            if f'{shortcut}_conv/kernel' in weights: x = conv_norm(weights, x, shortcut, stride, momentum=momentum)
            x, block = F.relu(y + x), block + 1
    return x.float().mean((2, 3)) @ weights['logits/kernel'] + weights['logits/bias']

@torch.no_grad()
def accuracy(weights, images, labels, dtype=torch.bfloat16, batch_size=1000):
    "Share of images named rightly"
    starts = range(0, len(images), batch_size)
    parts = [network(weights, images[i:i + batch_size], dtype=dtype).argmax(1) for i in starts]
    return float((torch.cat(parts) == labels).float().mean())

# The optimizer

def orthogonalize(x, steps=3):
    "As `arvinet.optimizer.orthogonalize`, for matrices (K, filters, fan-in) at once"
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

def rows(tensors):
    "Filters of one shape as matrices (K, filters, fan-in)"
    return torch.stack([t.permute(0, 2, 3, 1).reshape(len(t), -1) for t in tensors])

class Muon:
    "As `arvinet.optimizer.Muon`; filters of one shape are updated together"
    def __init__(self, weights, recipe):
        self.weights, self.recipe = weights, recipe
        self.names = [k for k in weights if is_trained(k)]
        self.others = [k for k in self.names if weights[k].ndim < 4]
        self.shapes = {}
        for k in self.names:
            if weights[k].ndim == 4: self.shapes.setdefault(tuple(weights[k].shape), []).append(k)
        self.momenta = {k: torch.zeros_like(weights[k]) for k in self.others}
        self.momenta |= {s: torch.zeros_like(rows([weights[k] for k in names])) for s, names in self.shapes.items()}

    def state(self): return list(self.momenta.values())

    def nesterov(self, key, gradient):
        "The direction of a step; the momentum is kept"
        self.momenta[key].mul_(self.recipe.momentum).add_(gradient)
        return gradient + self.recipe.momentum * self.momenta[key]

    @torch.no_grad()
    def update(self, gradients, rate):
        r, w, g = self.recipe, self.weights, dict(zip(self.names, gradients))
        for k in self.others:
            dense = w[k].ndim == 2
            step = self.nesterov(k, g[k] + r.head_decay * w[k] if dense else g[k])
            w[k].sub_(step * (rate * (r.head_rate if dense else r.norm_rate)))
        for shape, names in self.shapes.items():
            step = orthogonalize(self.nesterov(shape, rows([g[k] for k in names])))
            old = rows([w[k] for k in names])
            new = old * (shape[0]**.5 / old.flatten(1).norm(dim=1))[:, None, None] - step * (rate * r.filter_rate)
            for k, v in zip(names, new):
                w[k].copy_(v.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2))

# Augmentation

def reflect(i, n): return n - 1 - (n - 1 - i.abs()).abs()

def pick(images, index, flipped, shift):
    "Images of an index, mirrored where told and shifted at random, as by `arvinet.augmentation.shift_flip`"
    height, width = images.shape[1:3]
    by = torch.randint(-shift, shift + 1, (2, len(index), 1), device=device)
    down, across = (torch.arange(n, device=device)[None].expand(len(index), -1) for n in (height, width))
    across = torch.where(flipped[:, None] == 1, width - 1 - across, across)
    down, across = reflect(down + by[0], height), reflect(across + by[1], width)
    return images[index[:, None, None], down[:, :, None], across[:, None, :]]

def cut_mix(x, y, share):
    "As `arvinet.augmentation.cut_mix` with alpha 1, for a share of the images"
    n, inside = len(x), []
    side = torch.rand(n, device=device).sqrt()
    for length in x.shape[1:3]:
        sides, at = (side * length).round().long()[:, None], torch.arange(length, device=device)[None]
        start = torch.randint(0, length, (n, 1), device=device) - sides // 2
        inside.append((at >= start) & (at < start + sides))
    chosen = torch.rand(n, device=device) < share
    box = inside[0][:, :, None] & inside[1][:, None, :] & chosen[:, None, None]
    pasted = box.float().mean((1, 2))[:, None]
    return torch.where(box[..., None], x.roll(1, 0), x), y * (1 - pasted) + y.roll(1, 0) * pasted

# Training

class Phase:
    "The epochs of one image size"
    def __init__(self, job, weights, muon, images, labels, dtype):
        self.job, self.recipe, self.weights, self.muon, self.dtype = job, job.recipe, weights, muon, dtype
        self.images, self.labels = images, labels
        self.shift, self.steps = round(job.recipe.shift * images.shape[1] / 32), len(images) // job.recipe.batch_size
        def counter(*shape): return torch.zeros(shape, dtype=torch.int64, device=device)
        self.order, self.at, self.count = counter(self.steps, job.recipe.batch_size), counter(1), counter(1)
        self.epoch, self.share = counter(), torch.zeros((), device=device)
        self.sums = torch.zeros(2, device=device)
        self.trained = [weights[k].requires_grad_(True) for k in muon.names]
        self.graph = self.capture() if device == 'cuda' else None

    @torch.no_grad()
    def batch(self):
        "Images and soft labels of the next step"
        r, job = self.recipe, self.job
        index = self.order.index_select(0, self.at)[0]
        flipped = (job.sides[index] + self.epoch) % 2 * job.mirror
        x = pick(self.images, index, flipped, self.shift).float()
        y = (self.labels[index][:, None] == torch.arange(job.classes, device=device)).float()
        if r.cutmix: x, y = cut_mix(x, y, self.share)
        if job.teacher:
            soft = torch.softmax(network(job.teacher, x, dtype=self.dtype) / r.teacher_temperature, 1)
            y = y * (1 - r.teacher_share) + soft * r.teacher_share
        return x, y

    def step(self):
        "Draw a batch, and update the weights"
        x, y = self.batch()
        logits = network(self.weights, x, .1, self.dtype)
        smooth = y * (1 - self.recipe.label_smoothing) + self.recipe.label_smoothing / self.job.classes
        loss = -(smooth * torch.log_softmax(logits, 1)).sum(1).mean()
        rate = self.job.rates.index_select(0, self.count)[0]
        self.muon.update(torch.autograd.grad(loss, self.trained), rate)
        with torch.no_grad():
            right = (logits.argmax(1) == y.argmax(1)).float().mean()
            self.sums.add_(torch.stack([loss.detach(), right]))
            for counter in (self.at, self.count): counter.add_(1)

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
        self.order.copy_(torch.as_tensor(order))
        values = {self.epoch: epoch, self.count: epoch * self.steps, self.at: 0, self.share: share, self.sums: 0}
        for tensor, value in values.items(): tensor.fill_(value)
        for _ in range(self.steps): self.graph.replay() if self.graph else self.step()
        return [float(v) / self.steps for v in self.sums]

def train(
    job, # As `read_job` gives it; its weights are changed in place
    images, # x_train_SIDE for each side in pixels, y_train, x_test, y_test
    dtype=torch.bfloat16, # Of the convolutions
    report=lambda row: None, # Is told each row
): # A row per epoch
    "All epochs of a recipe"
    r, history, n = job.recipe, [], len(images['y_train'])
    torch.manual_seed(r.seed)
    muon, steps = Muon(job.weights, r), n // r.batch_size
    images = {k: torch.as_tensor(v, device=device) for k, v in images.items()}
    labels, test, held = images['y_train'].long(), images['x_test'], images['y_test'].long()
    job.sides = torch.as_tensor(np.random.default_rng(r.seed).integers(0, 2, n), device=device)
    for side, mixes, first, last in job.phases:
        phase = Phase(job, job.weights, muon, images[f'x_train_{side}'], labels, dtype)
        for epoch in range(first, last):
            start = perf_counter()
            order = np.random.default_rng((r.seed, epoch)).permutation(n)[:steps * r.batch_size].reshape(steps, -1)
            loss, right = phase.run(order, epoch, r.mix_share if mixes else 0.)
            seconds = perf_counter() - start
            if not np.isfinite(loss): raise SystemExit(f'the loss is no number in epoch {epoch + 1}: lower the rates')
            row = dict(epoch=epoch + 1, image_size=side, learning_rate=float(job.rates[(epoch + 1) * steps]))
            row |= dict(seconds=round(seconds, 2), images_per_second=round(steps * r.batch_size / seconds, 1))
            row |= dict(accuracy=right, loss=loss)
            if len(test): row['val_accuracy'] = accuracy(job.weights, test, held, dtype)
            history.append(row)
            report(row)
    return history

# Files

def read_job(
    path, # Of `job.npz`
): # recipe, phases, rates, classes, mirror, weights, teacher (or None)
    "A job as tensors"
    with np.load(path) as f: arrays = {k: f[k] for k in f.files}
    def part(name): return {k.removeprefix(name): to_torch(v) for k, v in arrays.items() if k.startswith(name)}
    job = SimpleNamespace(**json.loads(str(arrays['job'])))
    job.recipe = SimpleNamespace(**job.recipe)
    job.rates = torch.as_tensor(arrays['rates'], device=device)
    norm = {k: to_torch(arrays[k]) for k in ('image/mean', 'image/std')}
    job.weights, job.teacher = part('weights/') | norm, part('teacher/')
    if job.teacher: job.teacher |= norm
    return job

def machine():
    "What the steps ran on"
    card = [torch.cuda.get_device_name()] if device == 'cuda' else []
    versions = dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__)
    processor = card[0] if card else platform.processor() or platform.machine()
    return dict(processor=processor, cores=os.cpu_count(), accelerators=card, versions=versions)

def main(folder):
    "Train what a folder holds"
    folder = Path(folder)
    if missing := [n for n in ('job.npz', 'images.npz') if not (folder/n).is_file()]:
        raise SystemExit(f'no {" and no ".join(missing)} in {str(folder)!r}: tools/train_on_gpu.py writes them')
    job = read_job(folder/'job.npz')
    with np.load(folder/'images.npz') as f: images = {k: f[k] for k in f.files}
    def report(row): print('  '.join(f'{k} {v:.4g}' for k, v in row.items()), file=sys.stderr)
    history = train(job, images, report=report)
    arrays = {k: to_keras(v) for k, v in job.weights.items() if not k.startswith('image/')}
    np.savez(folder/'trained.npz', about=json.dumps(dict(history=history, **machine())), **arrays)

if __name__ == '__main__': main(*sys.argv[1:])
