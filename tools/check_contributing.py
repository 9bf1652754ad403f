"""Do what CONTRIBUTING.md says: add its entries to the tables of a copy of the package, and use each."""
import os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

from fastcore.script import call_parse

top = Path(__file__).resolve().parent.parent

USES = '''
import numpy as np
from arvinet import ArviNet, load
from arvinet.export import export
from arvinet.recipe import get_recipe

model = ArviNet('XXS')
assert model.output_shape == (None, 64)
data = load('fashion_mnist')
assert data.x_train.shape == (20, 32, 32, 3) and data.class_names[9] == 'boot'
assert get_recipe('brief').epochs == 2
assert export(model, 'model.keras')['format'] == 'keras'
'''

def entries(text):
    "(table, room, lines to add) of each example"
    pattern = r'^```python\n# (\w+), in nbs/\d+_(\w+)\.ipynb\n(.*?)^```'
    return re.findall(pattern, text, re.M | re.S)

def add(path, table, lines):
    "Put lines first into a table of a module"
    code = path.read_text(encoding='utf-8')
    found = re.search(rf'^{table} *= *(?:dict\(|\{{)\n', code, re.M)
    if not found: raise SystemExit(f'{path.name}: no line that begins the table {table}')
    path.write_text(code[:found.end()] + lines + code[found.end():], encoding='utf-8')

def small_set(path):
    "Twenty grey pictures in the layout of Keras's files"
    import numpy as np
    x = np.random.default_rng(0).integers(0, 256, (20, 28, 28), 'uint8')
    np.savez(path, x_train=x, y_train=np.arange(20) % 10, x_test=x[:10], y_test=np.arange(10))

@call_parse
def main():
    "Exit with an error where an entry does not do what is said of it"
    found = entries((top/'CONTRIBUTING.md').read_text(encoding='utf-8'))
    tables = [table for table, *_ in found]
    if sorted(tables) != ['DATASETS', 'FORMATS', 'RECIPES', 'VARIANTS']: raise SystemExit(f'CONTRIBUTING.md: {tables}')
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)/'arvinet'
        shutil.copytree(top/'arvinet', copy)
        for table, room, lines in found: add(copy/f'{room}.py', table, lines)
        small_set(Path(folder)/'fashion_mnist.npz')
        where = os.environ | dict(PYTHONPATH=folder, ARVINET_DATA=folder)
        done = subprocess.run([sys.executable, '-c', USES], cwd=folder, env=where, capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    print(f'{len(found)} entries added and used')
