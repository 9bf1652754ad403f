"Check what the built wheel and sdist hold"
import json, re, tarfile, zipfile
from configparser import ConfigParser
from hashlib import sha256
from pathlib import Path

from fastcore.script import call_parse

_top = Path(__file__).resolve().parent.parent
_caches = '__pycache__', '.pyc', '.ipynb_checkpoints', '.DS_Store', '/checkpoints/', '.npz'

def settings():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(_top/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def package_files():
    "The modules and weights of the checkout that every user needs"
    lib = _top/settings()['lib_path']
    files = [p for pattern in ('*.py', 'weights/*', 'pictures/*') for p in lib.rglob(pattern)]
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

def weights_problems(
    wheel, # Path of the wheel
):
    "Where the weights in a wheel and its registry do not agree, one line each"
    with zipfile.ZipFile(wheel) as archive:
        folder = f"{settings()['lib_path']}/weights/"
        found = {n.removeprefix(folder): archive.read(n) for n in archive.namelist() if n.startswith(folder)}
    if 'registry.json' not in found: return [f'{wheel.name}: lacks {folder}registry.json']
    pinned = {e['file']: e['sha256'] for e in json.loads(found.pop('registry.json')).values()}
    out = [f'{wheel.name}: {n} is in the registry, but not in the wheel' for n in sorted(set(pinned) - set(found))]
    out += [f'{wheel.name}: {n} is not in the registry' for n in sorted(set(found) - set(pinned))]
    for n in sorted(set(found) & set(pinned)):
        sha = sha256(found[n]).hexdigest()
        if sha != pinned[n]: out.append(f'{wheel.name}: {n} has SHA-256 {sha}, the registry says {pinned[n]}')
    return out

def version_problems(wheel, sdist):
    "Where the version of settings.ini is not that of the archives, the package and the changelog, one line each"
    version, lib = settings()['version'], settings()['lib_path']
    out = [f'{p.name}: settings.ini says {version}' for p in (wheel, sdist)
           if not re.match(rf'{lib}-{re.escape(version)}(-|\.tar)', p.name)]
    if f'__version__ = "{version}"' not in (_top/lib/'__init__.py').read_text(encoding='utf-8'):
        out.append(f'{lib}/__init__.py: settings.ini says {version}; run nbdev_export')
    if f'## [{version}]' not in (_top/'CHANGELOG.md').read_text(encoding='utf-8'):
        out.append(f'CHANGELOG.md: has no section for {version}')
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
    package = package_files()
    beside = {'LICENSE', 'README.md', 'settings.ini', 'setup.py'}
    found += problems(wheel, in_wheel, package, ('.ipynb', '/nbs/', '/tools/', '/tests/', *_caches), megabytes)
    found += problems(sdist, in_sdist, package | beside, _caches, megabytes)
    strangers = {n.split('/')[0] for n in in_wheel if '.dist-info/' not in n} - {f.split('/')[0] for f in package}
    found += [f'{wheel.name}: would install {n} beside the package' for n in sorted(strangers)]
    found += weights_problems(wheel) + version_problems(wheel, sdist)
    if found: raise SystemExit('\n'.join(found))
    for path, names in ((wheel, in_wheel), (sdist, in_sdist)):
        print(f'{path.name}: {len(names)} files, {path.stat().st_size/1e6:.1f} MB')
