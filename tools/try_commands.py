"""Run every command of the installed package on a few small photographs, and look at what each has written.

    python -I tools/try_commands.py               # the extras are not installed: what needs them must say so
    python -I tools/try_commands.py --extras      # they are: only the commands that need them
    python -I tools/try_commands.py --everything  # they are: every command
"""
import csv, json, os, subprocess, sys, tempfile, time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

checkout = Path(__file__).resolve().parent.parent
programs = Path(sys.executable).parent

def write_photographs(
    folder, # A folder of class folders is made in it
    each=24, # Pictures of a class
    seed=0,
):
    "Pieces of scikit-learn's two photographs, of several sizes and shapes"
    rng = np.random.default_rng(seed)
    for name, photo in zip(('temple', 'flower'), load_sample_images().images):
        (folder/name).mkdir(parents=True)
        for i in range(each):
            height, width = rng.integers(40, 120, 2)
            top, left = (int(rng.integers(0, n - k)) for n, k in zip(photo.shape, (height, width)))
            piece = Image.fromarray(photo[top:top + height, left:left + width])
            piece.save(folder/name/f'{i:02}.{"png" if i % 2 else "jpg"}')

def run(name, *words, status=0):
    "Run a command; gives what it printed, or stops where it ended otherwise than expected"
    start = time.perf_counter()
    done = subprocess.run([programs/name, *map(str, words)], capture_output=True, text=True, timeout=600)
    shown = done.stdout + done.stderr
    if done.returncode != status or 'Traceback' in shown:
        print(name, *words, shown, sep='\n')
        raise SystemExit(f'{name} ended with {done.returncode}, expected {status}')
    print(f'{name}: as expected ({time.perf_counter() - start:.0f} s)', flush=True)
    return done.stdout if status == 0 else done.stderr

def must_fail(name, *words, says):
    "Run a command that must end in one line with some words"
    lines = run(name, *words, status=1).strip().splitlines()
    if len(lines) != 1 or says not in lines[0]:
        raise SystemExit(f'{name}: expected one line with {says!r}, not\n' + '\n'.join(lines))

def must_exist(*paths):
    "Stop unless files have been written"
    if missing := [str(p) for p in paths if not p.exists() or p.is_file() and not p.stat().st_size]:
        raise SystemExit(f'not written: {", ".join(missing)}')

def must_be(found, expected, what):
    "Stop unless two things are the same"
    if found != expected: raise SystemExit(f'{what}: {found!r}, expected {expected!r}')

def try_pretraining(photos):
    "Train from random weights, go on with it, and leave a record"
    sizes = 'variant=XS batch_size=12 phases=[[2,16]]'
    options = '--data', photos, '--recipe', 'tryout', '--name', 'tiny', '--folder', 'runs/tiny'
    run('arvinet_pretrain', *options, '--change', sizes, '--stop_after', 1)
    run('arvinet_pretrain', *options, '--change', sizes, '--resume')
    record = json.loads(Path('runs/tiny/record.json').read_text())
    must_be((record['status'], len(record['history'])), ('finished', 2), 'the record')
    must_fail('arvinet_pretrain', '--data', 'nothing', says='nothing')

def try_transfer(photos):
    "Compare the three ways; use the classifier that comes out"
    run('arvinet_transfer', '--data', photos, '--how', 'scratch,frozen,finetune', '--epochs', 2, '--folder', 'transfer')
    run('arvinet_predict', 'transfer/finetune', photos/'temple', '--out', 'found.csv', '--top', 2)
    rows = list(csv.DictReader(Path('found.csv').open(encoding='utf-8')))
    must_be(len(rows), len(list((photos/'temple').iterdir())), 'rows of found.csv')
    must_fail('arvinet_predict', 'nowhere', photos, says='nowhere')

def try_features(photos):
    "Features of every picture"
    run('arvinet_features', photos, '--out', 'features.npz')
    found = np.load('features.npz')['features']
    must_be(found.shape, (len(list(photos.rglob('*.*'))), 256), 'shape of features')

def try_explanations(photos):
    "Where a classifier looks"
    run('arvinet_explain', 'transfer/finetune', photos/'flower'/'00.jpg', photos/'temple'/'01.png', '--folder', 'maps')
    must_be(len(list(Path('maps').glob('*.png'))), 2, 'maps')

def try_export(installed, photos):
    "Every format, where its runtime is installed, and 8 bits"
    for format, name in dict(onnx='m.onnx', litert='m.tflite', openvino='m.xml').items():
        words = 'arvinet_s_cifar100', name, '--format', format, '--top'
        if installed: print(run('arvinet_export', *words).strip())
        else: must_fail('arvinet_export', *words, says='pip install')
        must_be(Path(name).exists(), installed, f'{name} is there')
    if not installed: return
    run('arvinet_transfer', '--data', photos, '--how', 'frozen', '--folder', 'to_export')
    print(run('arvinet_export', 'to_export/frozen', 'int8.onnx', '--int8', photos).strip())

def try_card(installed):
    "A model card from this project's records"
    words = '--runs', checkout/'nbs'/'runs', '--out', 'card.md'
    if installed: run('arvinet_card', *words)
    else: must_fail('arvinet_card', *words, says='pip install')
    must_be(Path('card.md').exists(), installed, 'card.md is there')

def main(choice=''):
    "Every command, or those that need extras, in a folder that is removed"
    home = Path(find_spec('arvinet').origin).resolve()
    if checkout in home.parents: raise SystemExit('arvinet comes from the checkout, not from the wheel')
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        photos = Path(folder)/'photos'
        write_photographs(photos)
        if choice != '--extras':
            try_pretraining(photos)
            try_transfer(photos)
            try_features(photos)
            try_explanations(photos)
        try_export(bool(choice), photos)
        try_card(bool(choice))
        os.chdir(checkout)

if __name__ == '__main__': main(*sys.argv[1:])
