"""Train by a recipe of this project on a GPU, in PyTorch, as `arvinet.pretrain` or `arvinet.transfer` would.

    python tools/train_on_gpu.py --recipe nbs/runs/pretrain_m.json --name pretrain_m
    python tools/train_on_gpu.py --data cifar10 --how finetune --variant S --name transfer_cifar10_s_finetune

Where PyTorch is missing, it writes `job.npz` and `images.npz` and stops. Copy the folder and `gpu_steps.py` to a
machine with a GPU, which needs no more than numpy and PyTorch; run `python gpu_steps.py FOLDER` there; bring
`trained.npz` back; and give the same command again: it scores and saves the weights, and writes the record.
"""
import json, sys
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from fastcore.script import call_parse

from arvinet.architecture import CIFAR100_MEAN, CIFAR100_STD, ArviNet, evaluate, find_backbone
from arvinet.augmentation import Augment, batches
from arvinet.core import program, write_json
from arvinet.data import load
from arvinet.features import features, fit_head, head_top1
from arvinet.optimizer import Triangle, identity_initialization, renew_statistics
from arvinet.preparation import resize
from arvinet.recipe import built_on, get_recipe, parse_changes, phases_of, recipe_network
from arvinet.transfer import plan, transfer_network
from arvinet.weights import sha256_of

KNOWN = dict(optimizer=('muon',), schedule=('linear',), flip=('alternating', 'none'), cutout=(0,), mixup=(0,),
             cutmix=(0, 1), average=(0,))  # what `gpu_steps.py` can do

def check(recipe, images):
    "Stop where a recipe asks for what the steps do not know, with a number of training images"
    unlike = [f'{k}={getattr(recipe, k)!r}' for k, known in KNOWN.items() if getattr(recipe, k) not in known]
    if unlike: raise ValueError(f"{', '.join(unlike)}: not written for the GPU; use arvinet_pretrain")
    steps = images // recipe.batch_size * recipe.epochs
    if steps < 40: raise ValueError(f'{steps} steps: batch norm lags behind in fewer than 40; use arvinet_pretrain')

def weights_of(model):
    "Arrays of a Keras model by name"
    return {f'{layer.name}/{w.name}': np.asarray(w) for layer in model.layers for w in layer.weights}

def classifier(variant, weights, classes):
    "An ArviNet with logits, for images of any size"
    return ArviNet(variant, weights, True, classes, (None, None, 3), classifier_activation=None)

def adapt(net, data, seed):
    "Fit batch norm and head of a pretrained network to new images; gives the first row of the history"
    start = perf_counter()
    augment = Augment(flip='alternating' if data.mirror else 'none', shift=data.x_train.shape[1] // 8)
    size = min(250, len(data.x_train))
    drawn = batches(data.x_train, data.y_train, size, augment=augment, seed=seed, shuffle=True)
    renew_statistics(net, drawn.map(lambda x, y: x).take(40))
    x = features(find_backbone(net), data.x_train)
    head = fit_head(x, data.y_train, len(data.class_names))
    net.get_layer('logits').set_weights(head)
    top1 = head_top1(x, data.y_train, *head)
    return dict(epoch=0, seconds=round(perf_counter() - start, 2), accuracy=top1)

def start(data, recipe, how):
    "The network that a run starts from, the weights it is built on, and the history so far"
    classes, pretrained = len(data.class_names), how == 'finetune'
    if not how:
        files = dict(start=(recipe.variant, recipe.start), teacher=(recipe.teacher_variant, recipe.teacher))
        return recipe_network(recipe, classes, 'float32'), built_on(**files), []
    net = transfer_network(recipe.variant, pretrained, (4,), classes, recipe.seed)
    if pretrained: return net, built_on(backbone=(recipe.variant, True)), [adapt(net, data, recipe.seed)]
    return identity_initialization(net, recipe.seed), {}, []

def write_job(folder, data, recipe, net, record):
    "What `gpu_steps.py` reads"
    steps = len(data.x_train) // recipe.batch_size
    rates = Triangle(recipe.learning_rate, steps * recipe.epochs, recipe.warmup)(np.arange(steps * recipe.epochs + 1))
    arrays = {f'weights/{k}': v for k, v in weights_of(net).items()}
    classes, phases = len(data.class_names), list(phases_of(recipe, 0, recipe.epochs))
    if recipe.teacher:
        teacher = weights_of(classifier(recipe.teacher_variant, recipe.teacher, classes))
        arrays |= {f'teacher/{k}': v for k, v in teacher.items()}
    arrays |= {'image/mean': np.float32(CIFAR100_MEAN), 'image/std': np.float32(CIFAR100_STD)}
    job = dict(recipe=json.loads(recipe.to_json()), phases=phases, classes=classes, mirror=int(recipe.flip != 'none'),
               record=record)
    np.savez(folder/'job.npz', job=json.dumps(job), rates=np.asarray(rates, 'float32'), **arrays)
    images = {f'x_train_{side}': resize(data.x_train, side) for side in {side for side, *_ in phases}}
    np.savez(folder/'images.npz', y_train=data.y_train, x_test=data.x_test, y_test=data.y_test, **images)

def finish(folder, data):
    "Score and save what was trained, and write the record"
    with np.load(folder/'job.npz') as f: record = json.loads(str(f['job']))['record']
    with np.load(folder/'trained.npz') as f: arrays = {k: f[k] for k in f.files}
    about = json.loads(str(arrays.pop('about')))
    record |= about | dict(history=record['history'] + about['history'])
    net = classifier(record['recipe']['variant'], False, len(data.class_names))
    for layer in net.layers: layer.set_weights([arrays[f'{layer.name}/{w.name}'] for w in layer.weights])
    net.save_weights(folder/'final.weights.h5')
    scores = evaluate(net, data.x_test, data.y_test) if len(data.x_test) else {}
    record |= dict(status='finished', scores=scores, seconds=round(sum(h['seconds'] for h in record['history']), 1),
                   weights_sha256=sha256_of(folder/'final.weights.h5'))
    write_json(folder/'record.json', record)
    return record

@call_parse
def main(
    data:str='cifar100', # Data set by name
    recipe:str='best', # As in arvinet_pretrain
    change:str='', # As in arvinet_pretrain
    how:str='', # 'scratch' or 'finetune': train as `arvinet.transfer` does, by its plan
    variant:str='S', # With --how
    epochs:int=0, # With --how: default by the number of images
    hold_out:int=0, # Score on so many training images of each class, not on the test images
    name:str='gpu', # Of the run
    folder:str='', # For record and weights; default checkpoints/NAME
):
    "Train on a GPU by a recipe, or as a transfer; the weights and the run record go to a folder"
    out = Path(folder or Path('checkpoints')/name)
    out.mkdir(parents=True, exist_ok=True)
    images, changes = load(data), parse_changes(change)
    if hold_out: images = images.hold_out(per_class=hold_out)
    chosen = plan(images, how, variant, epochs or None, **changes) if how else get_recipe(recipe, **changes)
    check(chosen, len(images.x_train))
    if not (out/'trained.npz').exists():
        net, built, history = start(images, chosen, how)
        record = dict(name=name, started=datetime.now(timezone.utc).isoformat(timespec='seconds'),
                      **program('tools/train_on_gpu.py'), recipe=json.loads(chosen.to_json()), seed=chosen.seed,
                      built_on=built, data=images.about(), precision='mixed_bfloat16', history=history)
        if how: record |= dict(how=how, variant=chosen.variant, stages=[4])
        write_job(out, images, chosen, net, record)
        if not find_spec('torch'): sys.exit(f'{out}: run `python gpu_steps.py {out}` where PyTorch is')
        import gpu_steps
        gpu_steps.main(out)
    print(f"{name}: {finish(out, images)['scores']}")
