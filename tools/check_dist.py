"Check what the built wheel and sdist hold"
import tarfile, zipfile
from configparser import ConfigParser
from pathlib import Path

from fastcore.script import call_parse

_top = Path(__file__).resolve().parent.parent
_caches = '__pycache__', '.pyc', '.ipynb_checkpoints', '.DS_Store', '/checkpoints/', '.npz'

def package_files():
    "The modules and weights of the checkout that every user needs"
    cfg = ConfigParser(delimiters=['='])
    cfg.read(_top/'settings.ini', encoding='utf-8')
    lib = _top/cfg['DEFAULT']['lib_path']
    files = [p for pattern in ('*.py', 'weights/*') for p in lib.rglob(pattern)]
    return {p.relative_to(_top).as_posix() for p in files if p.is_file() and '__pycache__' not in p.parts}

def wheel_names(path): return set(zipfile.ZipFile(path).namelist())

def sdist_names(path):
    "Names in an sdist, without its top folder"
    with tarfile.open(path) as tar: return {m.name.partition('/')[2] for m in tar.getmembers() if m.isfile()}

def problems(
    path, # The archive
    names, # What is in it
    needed, # Names that must be there
    unwanted, # Parts of names that must not be
    megabytes, # The largest size
):
    "What is wrong with an archive, one line each"
    out = [f'{path.name}: lacks {n}' for n in sorted(needed - names)]
    out += [f'{path.name}: should not hold {n}' for n in sorted(names) if any(u in f'/{n}' for u in unwanted)]
    size = path.stat().st_size / 1e6
    if size > megabytes: out.append(f'{path.name}: {size:.1f} MB is more than {megabytes} MB')
    return out

@call_parse
def main(
    dist:str, # Folder with one wheel and one sdist
    megabytes:int=40, # Largest size of each
):
    "Exit with a list unless both archives hold what they should, and no more"
    wheel, = Path(dist).glob('*.whl')
    sdist, = Path(dist).glob('*.tar.gz')
    in_wheel, in_sdist = wheel_names(wheel), sdist_names(sdist)
    licences = {n for n in in_wheel if n.endswith('LICENSE') and '.dist-info/' in n}
    found = [] if licences else [f'{wheel.name}: lacks LICENSE']
    found += problems(wheel, in_wheel, package_files(), ('.ipynb', '/nbs/', '/tools/', '/tests/', *_caches), megabytes)
    found += problems(sdist, in_sdist, package_files() | {'LICENSE', 'README.md', 'settings.ini', 'setup.py'}, _caches, megabytes)
    strangers = {n.split('/')[0] for n in in_wheel if '.dist-info/' not in n} - {f.split('/')[0] for f in package_files()}
    found += [f'{wheel.name}: would install {n} beside the package' for n in sorted(strangers)]
    if found: raise SystemExit('\n'.join(found))
    for path, names in ((wheel, in_wheel), (sdist, in_sdist)): print(f'{path.name}: {len(names)} files, {path.stat().st_size/1e6:.1f} MB')
