"""Check the plan of the house: who imports whom, how wide and long the code is, and what no test calls.

Reads the source of `arvinet/`, `tools/` and the notebooks; runs nothing. `--self_test` checks the checks."""
import ast, json, re, statistics, sys, tempfile
from pathlib import Path

from fastcore.script import call_parse

WIDEST, LONGEST, MEDIAN = 120, 450, 650  # characters of a line, lines of a module, characters of a cell
MEDIAN_OF_LONGEST = 500  # characters of a cell of the longest module
HOOKS = set('build call compute_output_shape convolution_op from_config get_config update_step on_train_begin '
            'on_epoch_begin on_epoch_end on_train_batch_end on_train_end'.split())  # methods that Keras calls

# Sources

class Source:
    "A module, a tool, or a notebook, whose cells are sources of their own kind"
    def __init__(self,
        name:str, # As it is printed
        room:str, # The module whose private names it may use; '' for none
        code:str, # Python, without magics
        kind:str='module', # 'module', 'tool', 'export' or 'test'
    ):
        self.name, self.room, self.code, self.kind = name, room, code, kind
        self.tree = ast.parse(code)

def is_python(code):
    "Whether code has nothing that only IPython reads"
    try: ast.parse(code)
    except SyntaxError: return False
    return True

def without_magics(code):
    "A cell as plain Python; a line for the shell becomes a call that holds its words"
    if code.lstrip().startswith('%%'): return ''
    if is_python(code): return code
    code = re.sub(r'^(\s*(?:\w+ *= *)?)!(.*)$', lambda m: f'{m[1]}shell({m[2]!r})', code, flags=re.M)
    return re.sub(r'^(\s*)%.*$', r'\1pass', code, flags=re.M)

def directives(code): return set(re.findall(r'^#\| *([^\n]+?) *$', code, re.M))

def cell_kind(
    code:str, # Of a cell
)->str|None: # None for a cell that no test runs
    "'export' for what goes into the module, 'test' for what a test runs besides"
    found = directives(code)
    if 'slow' in found or 'eval: false' in found or any(d.startswith('default_exp') for d in found): return None
    return 'export' if found & {'export', 'exports', 'exporti'} else 'test'

def default_exp(cells):
    "The module that a notebook makes; '' for none"
    found = [m[1] for c in cells if (m := re.search(r'^#\| *default_exp +(\w+)', c, re.M))]
    return found[0] if found else ''

class House:
    "Everything that is checked, read once"
    def __init__(self, top):
        self.top = Path(top)
        self.notebooks = {p: json.loads(p.read_text(encoding='utf-8'))['cells']
                          for p in sorted(self.top.glob('nbs/**/*.ipynb')) if '.ipynb_checkpoints' not in p.parts}
        self.rooms = {p: default_exp(self.cells(p)) for p in self.notebooks}
        self.order = [room for p, room in self.rooms.items() if room and re.match(r'\d+_', p.name)]
        files = [p for p in sorted(self.top.glob('arvinet/*.py')) if p.name != '_modidx.py']
        self.modules = [Source(self.shown(p), p.stem, p.read_text(encoding='utf-8')) for p in files]
        self.tools = [Source(self.shown(p), '', p.read_text(encoding='utf-8'), 'tool')
                      for p in sorted(self.top.glob('tools/*.py'))]
        self.pages = [s for p in self.notebooks for s in self.page(p)]

    def shown(self, path): return path.relative_to(self.top).as_posix()
    def cells(self, path): return [''.join(c['source']) for c in self.notebooks[path] if c['cell_type'] == 'code']
    def prose(self, path): return [''.join(c['source']) for c in self.notebooks[path] if c['cell_type'] == 'markdown']

    def page(self, path):
        "A source for each code cell that a test runs"
        cells = [(i, c, cell_kind(c)) for i, c in enumerate(self.cells(path))]
        return [Source(f'{self.shown(path)}, code cell {i}', self.rooms[path], without_magics(c), kind)
                for i, c, kind in cells if kind]

    def public(self):
        "Module by public name: functions and classes of the rooms"
        return {n.name: m.room for m in self.modules for n in definitions(m.tree) if not n.name.startswith('_')}

def definitions(tree):
    "The functions and classes at the top of a module"
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]

# Private names

def is_private(name): return name.startswith('_') and not (name.startswith('__') and name.endswith('__'))

def private_names(tree):
    "What a module keeps for itself: names at its top, methods and attributes"
    found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    found |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return {n for n in found if is_private(n)}

def is_own(node): return isinstance(node, ast.Name) and node.id in ('self', 'cls')

def crossings(source, owners):
    "Private names of other modules that a source uses, one text each"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or 'arvinet').rpartition('.')[2]
            for a in node.names:
                if is_private(a.name) and module != source.room: yield f'imports {a.name} of {node.module or "."}'
        if isinstance(node, ast.Import):
            yield from (f'imports {a.name}' for a in node.names if is_private(a.name.rpartition('.')[2]))
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            homes = owners.get(node.attr, set())
            if homes and source.room not in homes: yield f'uses .{node.attr}, private to {", ".join(sorted(homes))}'
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for m in re.finditer(r'\barvinet\.(\w+)\.(?:\w+\.)*(_[a-zA-Z]\w*)', node.value):
                if m[1] != source.room: yield f'names {m[0]!r}, private to {m[1]}'
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(('patch.object', 'getattr', 'setattr')):
            for a in node.args:
                homes = owners.get(a.value, set()) if isinstance(a, ast.Constant) else set()
                if homes and source.room not in homes: yield f'reaches for {a.value!r}, private to {", ".join(homes)}'

def check_private(house):
    "Nothing with a leading underscore crosses a module's border"
    owners = {}
    for m in house.modules:
        for name in private_names(m.tree): owners.setdefault(name, set()).add(m.room)
    return [(s.name, c) for s in (*house.modules, *house.tools, *house.pages) for c in crossings(s, owners)]

# Order

def imported_rooms(source, rooms, public):
    "The rooms that a source imports, wherever in it"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith('arvinet.')]
            yield from (n.split('.')[1] for n in names)
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0] == 'arvinet'):
            path = (node.module or '').removeprefix('arvinet').strip('.')
            if path: yield path.split('.')[0]
            else: yield from (a.name if a.name in rooms else public.get(a.name, '') for a in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'arvinet':
            yield node.attr if node.attr in rooms else public.get(node.attr, '')

def check_order(house):
    "Imports run downhill only, in the order of the numbered notebooks"
    place, public, found = {room: i for i, room in enumerate(house.order)}, house.public(), []
    for s in (*house.modules, *(p for p in house.pages if p.kind == 'export')):
        if s.room == '__init__': continue
        if s.room not in place:
            found.append((s.name, 'is made by no numbered notebook'))
            continue
        used = {r for r in imported_rooms(s, set(house.order), public) if r in place and r != s.room}
        found += [(s.name, f'imports {r}, which comes after it') for r in sorted(used) if place[r] > place[s.room]]
    return found

def stands_on(house):
    "The rooms that each room imports, without those that another of them stands on already"
    public, below, found = house.public(), {}, {}
    imports = {m.room: set(imported_rooms(m, set(house.order), public)) for m in house.modules}
    for i, room in enumerate(house.order):
        direct = [r for r in house.order[:i] if r in imports.get(room, ())]
        implied = set().union(*(below[r] for r in direct))
        below[room] = implied | set(direct)
        found[room] = [r for r in direct if r not in implied]
    return found

def check_map(house):
    "CONTRIBUTING.md has a row for each room, in order, with what it stands on"
    path = house.top/'CONTRIBUTING.md'
    rows = re.findall(r'^\| `(\w+)` \| .* \| (.*) \|$', path.read_text(encoding='utf-8'), re.M) if path.exists() else []
    expected = [(room, ', '.join(on) or '–') for room, on in stands_on(house).items()]
    if [room for room, _ in rows] != house.order:
        return [('CONTRIBUTING.md', f'the rooms are {", ".join(house.order)}, in this order')]
    return [('CONTRIBUTING.md', f'{room} stands on {on}') for (room, on), row in zip(expected, rows) if row[1] != on]

def top_names(tree):
    "What a module has at its top, defined or imported there"
    found = {n.name for n in definitions(tree)}
    for n in tree.body:
        if isinstance(n, (ast.Import, ast.ImportFrom)): found |= {a.asname or a.name for a in n.names}
        if isinstance(n, ast.Assign): found |= {t.id for t in n.targets if isinstance(t, ast.Name)}
    return found

def front_door(house):
    "The table of `arvinet/__init__.py`: module to names"
    tree = next((m.tree for m in house.modules if m.room == '__init__'), ast.parse(''))
    tables = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '_homes']
    return ast.literal_eval(tables[0]) if tables else {}

def check_front_door(house):
    "`from arvinet import NAME` finds every room, each name where it is said to be, and every command"
    homes, file = front_door(house), 'arvinet/__init__.py'
    names = {m.room: top_names(m.tree) for m in house.modules}
    found = [(file, f'lacks the room {room}') for room in house.order if room not in homes]
    pairs = [(room, n) for room, given in homes.items() for n in given]
    found += [(file, f'{n} is not in {room}') for room, n in pairs if n not in names.get(room, ())]
    given = {n for _, n in pairs}
    found += [(file, f'lacks the command {n.name}') for m in house.modules for n in definitions(m.tree)
              if is_command(n) and n.name not in given]
    settings = house.top/'settings.ini'
    text = settings.read_text(encoding='utf-8') if settings.exists() else ''
    scripts = re.findall(r'(\w+)=arvinet\.core:command_line', text)
    return found + [('settings.ini', f'the command {n} is not in {file}') for n in scripts if n not in given]

# Size

def exported_lines(code):
    "(number, line) of a module without nbdev's own list of names"
    parts = re.split(r'(?m)^(?=# %% )', code)
    number = 0
    for part in parts:
        lines = part.splitlines()
        if not part.startswith('# %% auto'): yield from enumerate(lines, number + 1)
        number += len(lines)

def check_width(house):
    "No line of code or prose is too wide; tables and addresses are not prose"
    found = [(f'{s.name}:{n}', f'{len(line)} characters, {WIDEST} at most')
             for s in (*house.modules, *house.tools) for n, line in exported_lines(s.code) if len(line) > WIDEST]
    for p in house.notebooks:
        lines = [line for cell in house.prose(p) for line in cell.splitlines()]
        long = [line for line in lines if len(line) > WIDEST and not line.startswith(('|', '!['))]
        found += [(house.shown(p), f'a line of prose of {len(line)} characters: {line[:50]}…') for line in long]
    return found

def check_length(house):
    "Modules are short, and so are their cells"
    found = [(s.name, f'{n} lines, fewer than {LONGEST} expected')
             for s in house.modules if (n := len(s.code.splitlines())) >= LONGEST]
    longest = max(house.modules, key=lambda s: len(s.code.splitlines()), default=None)
    for p in house.notebooks:
        cells = [re.sub(r'^#\|.*\n', '', c, flags=re.M) for c in house.cells(p) if cell_kind(c) == 'export']
        median = statistics.median(map(len, cells)) if cells else 0
        most = MEDIAN_OF_LONGEST if longest and house.rooms[p] == longest.room else MEDIAN
        if median >= most: found.append((house.shown(p), f'median exported cell of {median:.0f} characters'))
    return found

# What nbdev would do with a page

def check_pages(house):
    "Cells that nbdev drops or runs when it makes a page, and folders of one machine"
    found = []
    for p in house.notebooks:
        title = next(iter(house.prose(p)), '').strip().splitlines()
        if not re.match(r'# \S', ''.join(title[:1])): found.append((house.shown(p), 'begins without a title'))
        elif len(title) != 2 or not title[1].startswith('> '):
            found.append((house.shown(p), 'has more than a line of subtitle in its first cell; nbdev drops the rest'))
        named = set(re.findall(r'/(?:work|root)/\w+', json.dumps(house.notebooks[p])))
        found += [(house.shown(p), f'names {folder}, a folder of one machine') for folder in sorted(named)]
    for s in house.pages:
        parts = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in s.tree.body]
        inside = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(s.tree))
        if s.kind == 'test' and s.room and inside and not all(parts) and 'nbdev_export()' not in s.code:
            found.append((s.name, 'imports beside other code: nbdev would run it to make the page'))
    return found

# Names that are not there

def held_names(tree):
    "Names that a module has at its top: defined, assigned or imported"
    found = set()
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)): found.add(n.name)
        elif isinstance(n, (ast.Import, ast.ImportFrom)): found |= {a.asname or a.name.split('.')[0] for a in n.names}
        else: found |= {t.id for t in ast.walk(n) if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)}
    return found

def check_imports(house):
    "What pages and tools import from a room is there; slow cells, which no test runs, included"
    held = {f'arvinet.{m.room}': held_names(m.tree) for m in house.modules}
    code = [(house.shown(p), without_magics(c)) for p in house.notebooks for c in house.cells(p)]
    code = [(name, text) for name, text in code if is_python(text)] + [(s.name, s.code) for s in house.tools]
    nodes = [(name, n) for name, text in code for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)]
    return [(name, f'imports {a.name} from {n.module}, which has none') for name, n in nodes if n.module in held
            for a in n.names if a.name != '*' and a.name not in held[n.module]]

# What no test calls

def is_command(node): return any(ast.unparse(d).endswith('command') for d in getattr(node, 'decorator_list', ()))

def options(node):
    "The parameters of a command that have a default"
    a = node.args
    named = [*a.posonlyargs, *a.args]
    return [p.arg for p in named[len(named) - len(a.defaults):]] + [p.arg for p in a.kwonlyargs]

def patched_class(node):
    "The class that `@patch` puts a function into, or None"
    if not any(ast.unparse(d).split('(')[0] == 'patch' for d in node.decorator_list) or not node.args.args: return None
    return getattr(node.args.args[0].annotation, 'id', None)

def to_be_called(tree):
    "(shown, name) of the public functions, classes and methods of a module"
    for n in definitions(tree):
        if n.name.startswith('_'): continue
        owner = patched_class(n)
        yield f'{owner}.{n.name}' if owner else n.name, n.name
        for m in getattr(n, 'body', ()) if isinstance(n, ast.ClassDef) else ():
            if isinstance(m, ast.FunctionDef) and not m.name.startswith('_') and m.name not in HOOKS:
                yield f'{n.name}.{m.name}', m.name

def used_names(tree):
    "Names and attributes that code reads, apart from those it only shows the documentation of"
    shown = {id(a) for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == 'show_doc'
             for arg in n.args for a in ast.walk(arg)}
    nodes = [n for n in ast.walk(tree) if id(n) not in shown]
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return names | {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}

def words(node):
    "The words of all strings in some code"
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [w for t in texts for w in t.split()]

def given_options(trees, command):
    "The options with which code calls a command, as a function's `main` or as a program"
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Call, ast.List, ast.Tuple, ast.Assign)): continue
            said = words(node)
            if command in used_names(node) or any(w.rpartition('/')[2] == command for w in said):
                found |= {w[2:].partition('=')[0].replace('-', '_') for w in said if w.startswith('--')}
    return found

def check_called(house):
    "Each public function, class and method, and each option of a command, stands in a cell that a test runs"
    tests = [p.tree for p in house.pages if p.kind == 'test']
    used = set().union(*map(used_names, tests))
    commands = {n.name for m in house.modules for n in definitions(m.tree) if is_command(n)}
    used |= commands & {w.rpartition('/')[2] for t in tests for w in words(t)}
    found = []
    for m in house.modules:
        if m.room == '__init__': continue
        found += [(m.name, f'no test calls {shown}') for shown, name in to_be_called(m.tree) if name not in used]
        for n in definitions(m.tree):
            if n.name not in commands: continue
            given = given_options(tests, n.name)
            found += [(m.name, f'no test gives {n.name} its option --{o}') for o in options(n) if o not in given]
    return found

checks = (check_private, check_order, check_map, check_front_door, check_width, check_length, check_pages,
          check_imports, check_called)

def problems(
    top, # Of the checkout
): # (file, what) of each
    "What is wrong with the house"
    house = House(top)
    return [p for check in checks for p in dict.fromkeys(check(house))]

# The checks, checked

def write_house(top, cells, modules):
    "A small house in a folder: notebook name to cells, file name to code"
    for name, sources in cells.items():
        path = Path(top)/'nbs'/name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = [dict(cell_type='markdown' if s.startswith('# ') else 'code', source=s) for s in sources]
        path.write_text(json.dumps(dict(cells=content)))
    for name, code in modules.items():
        path = Path(top)/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)

def selftest():
    "A good house passes, and each fault is found"
    a = 'def low(x): return _own(x)\ndef _own(x): return x\n'
    b = ('from .a import low\n@command\ndef tool(x, *, fast=False):\n    return low(x)\n'
         'class Box:\n    def open(self): return self._lid\n')
    tests = ['#| default_exp b', '#| export\n' + b, 'low(1)\ntool.main(["1", "--fast"])\nBox().open()\n!ls']
    title = '# A page\n> of the house'
    cells = {'00_a.ipynb': [title, '#| default_exp a', '#| export\n' + a, '_own(1)'], '01_b.ipynb': [title, *tests],
             'experiments/page.ipynb': [title, 'from arvinet import b']}
    files = {'CONTRIBUTING.md': '| `a` | ? | – |\n| `b` | ? | a |\n', 'arvinet/a.py': a, 'arvinet/b.py': b,
             'arvinet/__init__.py': "_homes = {'a': [], 'b': ['tool']}", 'tools/t.py': 'import arvinet.b\n'}

    def found(more_cells={}, more_files={}):
        with tempfile.TemporaryDirectory() as top:
            write_house(top, cells | more_cells, files | more_files)
            return [what for _, what in problems(top)]

    def must(text, **faults):
        seen = found(**faults)
        if not any(text in what for what in seen): raise SystemExit(f'selftest: {text!r} not found, only {seen}')

    if seen := found(): raise SystemExit(f'selftest: a good house has problems: {seen}')
    def page(code): return {'experiments/page.ipynb': [title, code]}
    must('imports _own of arvinet.a', more_cells=page('from arvinet.a import _own'))
    must('uses ._own, private to a', more_cells=page('from arvinet import a\na._own(1)'))
    must('private to a', more_cells=page('mock.patch("arvinet.%s")' % 'a._own'))
    must("reaches for '_own'", more_cells=page('mock.patch.object(a, "_own")'))
    must('imports arvinet._quiet', more_files={'tools/t.py': 'import arvinet._quiet'})
    for line in 'from .b import Box', 'import arvinet.b', 'from arvinet import b', 'from arvinet import Box':
        must('imports b, which comes after it', more_files={'arvinet/a.py': a + line})
    must('the rooms are a, b', more_files={'CONTRIBUTING.md': '| `b` | ? | a |\n'})
    must('b stands on a', more_files={'CONTRIBUTING.md': '| `a` | ? | – |\n| `b` | ? | – |\n'})
    fronts = {'lacks the room b': {'a': []}, 'high is not in b': {'b': ['high']}, 'lacks the command tool': {'b': []}}
    for text, homes in fronts.items(): must(text, more_files={'arvinet/__init__.py': f'_homes = {homes}'})
    must('the command gone is not in', more_files={'settings.ini': 'gone=arvinet.core:command_line'})
    must('121 characters', more_files={'arvinet/a.py': a + '#' * 121})
    must('121 characters', more_cells={'experiments/page.ipynb': ['# A ' + 'b' * 117]})
    must('450 lines', more_files={'arvinet/a.py': a + '#\n' * 448})
    must('median exported cell', more_cells={'02_c.ipynb': ['#| default_exp a', '#| export\n' + '#' * 650]})
    must('begins without a title', more_cells={'experiments/page.ipynb': ['1']})
    must('nbdev drops the rest', more_cells={'experiments/page.ipynb': [title + '\nlost']})
    must('a folder of one machine', more_cells=page('"/wor" "k/x"'.replace('" "', '')))
    slow = [title, '#| slow\nfrom arvinet.a import lost']
    must('imports lost from arvinet.a', more_cells={'experiments/page.ipynb': slow})
    must('imports beside other code', more_cells={'01_b.ipynb': [title, *tests, 'import os; os.getcwd()']})
    must('no test calls Box', more_cells={'01_b.ipynb': [*tests[:2], 'show_doc(Box)', '#| slow\nBox().open()']})
    must('no test calls Box.open', more_cells={'01_b.ipynb': [*tests[:2], 'Box']})
    if seen := found({'01_b.ipynb': [title, *tests[:2], 'low(Box().open())\nx = !tool 1 --fast']}):
        raise SystemExit(f'selftest: the shell: {seen}')
    must('its option --fast', more_cells={'01_b.ipynb': [*tests[:2], 'tool.main(["1"]); x = "--fast"']})
    print('selftest: every fault was found')

@call_parse
def main(
    top:str='', # Of the checkout; default: the one this file lies in
    self_test:bool=False, # Check the checks, on houses made for it
):
    "Exit with a list of what is wrong with the house, if anything is"
    if self_test: return selftest()
    found = problems(top or Path(__file__).resolve().parent.parent)
    for file, what in found: print(f'{file}: {what}')
    print(f'{len(found)} problems')
    if found: sys.exit(1)
