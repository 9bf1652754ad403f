"""Run the README's first Python example with the installed package and no network.

    python -I tools/run_readme.py README.md
"""
import re, socket, sys
from importlib.util import find_spec
from pathlib import Path

def first_example(readme):
    "The first Python block of a Markdown file"
    found = re.search(r'^```python\n(.*?)^```', Path(readme).read_text(encoding='utf-8'), re.M | re.S)
    if not found: raise SystemExit(f'no ```python block in {readme}')
    return found[1]

def no_network():
    "Make every connection an error"
    def refuse(*args, **kwargs): raise OSError('the example must not use the network')
    socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse

def must_be_installed(package, checkout):
    "Stop if the package would come from the checkout"
    spec = find_spec(package)
    if spec is None: raise SystemExit(f'{package} is not installed')
    if Path(checkout).resolve() in Path(spec.origin).resolve().parents:
        raise SystemExit(f'{package} comes from the checkout, not from the wheel')

if __name__ == '__main__':
    readme = sys.argv[1]
    code = first_example(readme)
    must_be_installed('arvinet', Path(readme).resolve().parent/'arvinet')
    no_network()
    print(code)
    exec(compile(code, f'{readme}, first example', 'exec'), {'__name__': '__main__'})
