"""Print the lowest versions that `settings.ini` allows, as constraints for pip: `name>=X` becomes `name==X`.

    python tools/lowest_versions.py [export] [hub] > lowest.txt
"""
import re, sys
from configparser import ConfigParser
from pathlib import Path

def lowest(
    requirements, # Such as 'numpy>=2 tqdm'
): # 'numpy==2', and a stop for a name without a lowest version
    "The lowest version of each package"
    for requirement in requirements.split():
        found = re.match(r'([\w.-]+)>=([\w.]+)', requirement)
        if not found: raise SystemExit(f'settings.ini: {requirement} names no lowest version: write {requirement}>=X')
        yield f'{found[1]}=={found[2]}'

if __name__ == '__main__':
    cfg = ConfigParser(delimiters=['='])
    cfg.read(Path(__file__).resolve().parent.parent/'settings.ini', encoding='utf-8')
    keys = ['requirements', *(f'{extra}_requirements' for extra in sys.argv[1:])]
    print('\n'.join(line for key in keys for line in lowest(cfg['DEFAULT'][key])))
