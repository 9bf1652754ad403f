"""Compare the tool for a GPU with the package, on a processor. Needs PyTorch: `pip install torch`.

From the same weights on the same images: the network forward, four steps of the optimizer with and without a teacher,
what the augmentation draws, and whole runs with their records.
"""
import json, subprocess, sys, tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import torch
from fastcore.script import call_parse
from scipy.stats import chisquare, ks_2samp

import gpu_steps, train_on_gpu
from arvinet.augmentation import cut_mix, shift_flip
from arvinet.core import keep_row, read_json, read_runs
from arvinet.data import load
from arvinet.pretraining import pretrain
from arvinet.recipe import Recipe, recipe_optimizer
from arvinet.transfer import transfer, transfer_network

tools = Path(__file__).resolve().parent
digits = load('digits')
few = replace(digits, x_train=digits.x_train[:200], y_train=digits.y_train[:200], x_test=digits.x_test[:0],
              y_test=digits.y_test[:0])

def must(what, found, below):
    "Stop unless a difference is small"
    print(f'{what}: {found:.2g}, below {below:g} expected', flush=True)
    if not found < below: raise SystemExit(f'{what}: {found} is too much')

def job_of(net, data, recipe):
    "What the steps would read from files, and the images"
    with tempfile.TemporaryDirectory() as folder:
        train_on_gpu.write_job(Path(folder), data, recipe, net, {})
        with np.load(Path(folder)/'images.npz') as f: images = {k: f[k] for k in f.files}
        return gpu_steps.read_job(Path(folder)/'job.npz'), images

def distance(a, b, names): return sum(float((a[k].detach() - b[k].detach()).square().sum()) for k in names)**.5

# The network

def compare_forward(variant, side):
    "Logits in inference, and the moving statistics that one training pass leaves"
    net = transfer_network(variant, variant != 'XS')
    x = few.x_train[:, :side, :side]
    weights = job_of(net, few, Recipe(variant, phases=((1, 32),), batch_size=200))[0].weights
    expected = net.predict(x, verbose=0)
    found = gpu_steps.network(weights, torch.as_tensor(x), dtype=torch.float32).numpy()
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    must(f'logits of {variant} at {side} pixels', apart, 1e-4)
    gpu_steps.network(weights, torch.as_tensor(x), .1, torch.float32)
    net(tf.cast(x, tf.float32), training=True)
    after = {k: gpu_steps.to_torch(v) for k, v in train_on_gpu.weights_of(net).items()}
    moving = [k for k in after if k.split('/')[1] in gpu_steps.statistics]
    zero = {k: torch.zeros_like(after[k]) for k in moving}
    must(f'moving statistics of {variant}', distance(weights, after, moving) / distance(after, zero, moving), 1e-3)
    return apart

# The optimizer

def recipe_of(variant, **changes):
    "Four steps on 200 images, without augmentation"
    given = dict(phases=((4, 32),), batch_size=200, flip='none', shift=0, learning_rate=.5, warmup=.25)
    return Recipe(variant, **given, **changes)

def compare_updates(variant):
    "What the optimizer makes of the same gradients, four times"
    recipe, net, rng = recipe_of(variant), transfer_network(variant, False), np.random.default_rng(0)
    job, _ = job_of(net, few, recipe)
    start = {k: v.clone() for k, v in job.weights.items()}
    ours, theirs = recipe_optimizer(recipe, 4), gpu_steps.Muon(job.weights, job.recipe)
    names = [f'{layer.name}/{w.name}' for layer in net.layers for w in layer.trainable_weights]
    variables = [w for layer in net.layers for w in layer.trainable_weights]
    for step in range(4):
        gradients = {k: rng.normal(size=v.shape).astype('float32') for k, v in zip(names, variables)}
        ours.apply([tf.constant(g) for g in gradients.values()], variables)
        theirs.update([gpu_steps.to_torch(gradients[k]) for k in theirs.names], job.rates[step])
    end = {k: gpu_steps.to_torch(v) for k, v in train_on_gpu.weights_of(net).items()}
    must(f'{variant}, the same gradients', distance(job.weights, end, names) / distance(start, end, names), 1e-4)

def compare_steps(variant, **teacher):
    "Four steps of training: loss, and distance of the weights, of the way they went (rounding grows with each step)"
    recipe, net = recipe_of(variant, **teacher), transfer_network(variant, variant != 'XS')
    (job, images), (start, _) = (job_of(net, few, recipe) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        _, record = pretrain(few, recipe, folder=folder, model=net, precision='float32', progress=False)
    history = gpu_steps.train(job, images, torch.float32)
    end = {k: gpu_steps.to_torch(v) for k, v in train_on_gpu.weights_of(net).items()}
    names = [k for k in end if gpu_steps.is_trained(k)]
    loss = max(abs(a['loss'] / b['loss'] - 1) for a, b in zip(history, record['history']))
    weights = distance(job.weights, end, names) / distance(start.weights, end, names)
    what = f'{variant}{" with a teacher" if teacher else ""}, four steps'
    must(f'{what}: loss', loss, 2e-3)
    must(f'{what}: weights', weights, .04)
    return loss, weights

def compare_taught():
    "The same with a teacher"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'teacher.weights.h5'
        train_on_gpu.classifier('XS', False, 10).save_weights(path)
        compare_steps('XS', teacher=str(path), teacher_variant='XS')

# Augmentation

def located(n, side=32):
    "Images that hold each pixel's row and column"
    row, column = np.indices((side, side), 'uint8')
    return np.tile(np.stack([row, column, row], -1), (n, 1, 1, 1))

def read_moves(x):
    "Shift down, shift across and whether mirrored, of images that were `located`"
    x = np.asarray(x).astype(int)
    mirrored = x[:, 16, 17, 1] < x[:, 16, 16, 1]
    across = np.where(mirrored, 31 - x[:, 16, 16, 1], x[:, 16, 16, 1]) - 16
    return x[:, 16, 16, 0] - 16, np.where(mirrored, -across, across), mirrored

def compare_moves(n=8100, shift=4):
    "Every shift is as likely as any other, in both; images are mirrored where told"
    flipped = np.arange(n) % 3 % 2
    ours = shift_flip(tf.constant(located(n)), tf.constant(flipped, tf.int32), shift, (1, 2)).numpy()
    theirs = gpu_steps.pick(torch.tensor(located(n)), torch.arange(n), torch.tensor(flipped), shift).numpy()
    for name, x in dict(package=ours, tool=theirs).items():
        down, across, mirrored = read_moves(x)
        must(f'mirrored otherwise than told, by the {name}', (mirrored != flipped).mean(), 1e-9)
        counts = np.bincount((down + shift) * (2 * shift + 1) + across + shift, minlength=(2 * shift + 1)**2)
        must(f'certainty that shifts are uneven, by the {name}', 1 - chisquare(counts).pvalue, 1 - 1e-4)

def compare_flips(n=2000):
    "Half of the images are mirrored in an epoch, the other half in the next"
    data = replace(few, x_train=located(n), y_train=np.arange(n) % 10)
    recipe = Recipe('XS', phases=((2, 32),), batch_size=n, shift=0)
    job, images = job_of(transfer_network('XS', False), data, recipe)
    job.sides = torch.tensor(np.random.default_rng(1).integers(0, 2, n))
    x, labels = torch.tensor(images['x_train_32']), torch.zeros(n).long()
    muon = gpu_steps.Muon(job.weights, job.recipe)
    phase = gpu_steps.Phase(job, job.weights, muon, x, labels, torch.float32)
    phase.order.copy_(torch.arange(n)[None])
    first, second = (read_moves(phase.batch()[0])[2] for epoch in (0, 1) if phase.epoch.fill_(epoch) is not None)
    must('mirrored in both epochs, or in none', (first == second).mean(), 1e-9)
    must('share mirrored, away from a half', abs(first.mean() - .5), 4 * .5 / n**.5)

def compare_mixing(n=3000):
    "The boxes that CutMix pastes: their areas, and labels that tell them"
    x, y = np.tile(np.arange(n, dtype='float32')[:, None, None, None], (1, 32, 32, 3)), np.eye(n, dtype='float32')
    ours = [v.numpy() for v in cut_mix(tf.constant(x), tf.constant(y), 1., (3, 4))]
    theirs = [v.numpy() for v in gpu_steps.cut_mix(torch.tensor(x), torch.tensor(y), 1.)]
    areas = []
    for name, (mixed, labels) in dict(package=ours, tool=theirs).items():
        pasted = 1 - labels[np.arange(n), np.arange(n)]
        pixels = (mixed[..., 0] != x[..., 0]).mean((1, 2))
        must(f'labels that do not tell the area, by the {name}', np.abs(pasted - pixels).max(), 1e-5)
        areas.append(pasted)
    a, b = areas
    must('mean area, apart', abs(a.mean() - b.mean()), 4 * (a.var() / n + b.var() / n)**.5)
    must('certainty that areas differ', 1 - ks_2samp(a, b).pvalue, 1 - 1e-4)
    half = gpu_steps.cut_mix(torch.tensor(x), torch.tensor(y), .5)[1].numpy().diagonal() < 1
    must('share mixed, away from half of the boxes', abs(half.mean() - .5 * (b > 0).mean()), 4 * .5 / n**.5)

# Whole runs

def run(folder, *words):
    "Run the tool; gives the record"
    command = [sys.executable, tools/'train_on_gpu.py', '--data', 'digits', '--folder', folder, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode: raise SystemExit(f'{" ".join(map(str, command))}:\n{done.stdout}{done.stderr}')
    record = read_json(Path(folder)/'record.json')
    expected = dict(program='tools/train_on_gpu.py', status='finished')
    wrong = {k: record.get(k) for k, v in expected.items() if record.get(k) != v}
    if wrong: raise SystemExit(f'record: {wrong}')
    print(f'{" ".join(words)}: {record["scores"]}', flush=True)
    return record

def try_runs():
    "From random weights, taught by what came out, from scratch by plan, and fine-tuned"
    tiny = 'variant=XS batch_size=80 flip=none phases=[[2,16],[1,20]]'
    with tempfile.TemporaryDirectory() as d:
        run(f'{d}/first', '--recipe', 'tryout', '--change', tiny)
        taught = f'teacher={d}/first/final.weights.h5 teacher_variant=XS cutmix=1 mix_share=.5 mix_until=.7'
        record = run(f'{d}/taught', '--recipe', 'tryout', '--change', f'{tiny} {taught}', '--hold_out', '20')
        if record['built_on']['teacher'] != read_json(f'{d}/first/record.json')['weights_sha256']:
            raise SystemExit('the record does not name its teacher')
        again = Recipe.from_json(json.dumps(record))
        if again.cutmix != 1 or record['history'][-1]['image_size'] != 20: raise SystemExit(f'not the recipe: {again}')
        run(f'{d}/scratch', '--how', 'scratch', '--variant', 'XS', '--epochs', '2', '--change', 'phases=[[2,16]]')
        record = run(f'{d}/tuned', '--how', 'finetune', '--variant', 'S', '--change', 'phases=[[1,16]] batch_size=35')
    tuned = transfer(digits, 'finetune', 'S', phases=((1, 16),), batch_size=35, progress=False).record
    for ours, theirs in zip(tuned['history'], record['history'], strict=True):
        must(f'fine-tuning, epoch {ours["epoch"]}: accuracy', abs(ours['accuracy'] - theirs['accuracy']), .05)

def check_records():
    "Every recipe of a record that names the tool is one that the tool takes"
    for name, record in read_runs(tools.parent/'nbs'/'runs').items():
        if 'train_on_gpu' in record.get('program', '') and 'recipe' in record:
            train_on_gpu.check(Recipe.from_json(json.dumps(record)), record['data']['train_images'])
            print(f'{name}: can be made', flush=True)

def check_imports():
    "The steps need neither this package nor TensorFlow"
    code = "import sys, gpu_steps; sys.exit(bool({'arvinet', 'keras', 'tensorflow'} & set(sys.modules)))"
    subprocess.run([sys.executable, '-c', code], cwd=tools, check=True)

@call_parse
def main(
    record:str='', # A record of rows to keep the differences in, such as nbs/runs/gpu_check.json
):
    "Exit with the first difference that is too large"
    check_imports()
    check_records()
    for side in 32, 24: compare_forward('XS', side)
    compare_updates('XS')
    compare_taught()
    for variant in 'SM' if record else 'S':
        logits = compare_forward(variant, 32)
        loss, weights = compare_steps(variant)
        measured = dict(steps=4, logits=logits, loss=loss, weights=weights, torch=torch.__version__)
        if record: keep_row(record, dict(variant=variant), **measured)
    compare_moves()
    compare_flips()
    compare_mixing()
    try_runs()
    print('the tool does what the package does')
