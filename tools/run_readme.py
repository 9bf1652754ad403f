"""Run the README's Python examples with the installed package and no network, on a folder of pictures made for them.

    python -I tools/run_readme.py README.md
"""
import re, socket, sys
from importlib.util import find_spec
from pathlib import Path

def examples(readme):
    "The Python blocks of a Markdown file, one after the other"
    found = re.findall(r'^```python\n(.*?)^```', Path(readme).read_text(encoding='utf-8'), re.M | re.S)
    if not found: raise SystemExit(f'no ```python block in {readme}')
    return '\n'.join(found)

def make_pictures():
    "What the examples find in the current folder: pictures in class folders, and a new one"
    from PIL import Image
    from arvinet import load
    photos = load('caltech20')
    for i, (image, label) in enumerate(zip(photos.x_train, photos.y_train)):
        folder = Path('my_pictures', photos.class_names[label])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder/f'{i}.png')
    Image.fromarray(photos.x_test[0]).save('new_picture.jpg')

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
    code = examples(readme)
    must_be_installed('arvinet', Path(readme).resolve().parent/'arvinet')
    no_network()
    make_pictures()
    print(code)
    exec(compile(code, f'{readme}, examples', 'exec'), {'__name__': '__main__'})
