"Build the site into `_docs/`, and write or check README.md, from the notebooks"
import ast, json, os, posixpath, re, shutil, subprocess, sys, tempfile
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import yaml
from execnb.nbio import read_nb
from fastcore.script import call_parse
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

top = Path(__file__).resolve().parent.parent

def docs_url():
    "Address of the published site, ending in a slash"
    cfg = get_config()
    return f'{cfg.doc_host}{cfg.doc_baseurl}'.rstrip('/') + '/'

def page_name(
    notebook, # A notebook's path or address, such as `03_architecture.ipynb` or `../03_architecture.ipynb`
): # The one nbdev gives its page, without the number: `architecture.ipynb`, `../architecture.ipynb`
    "The address of a notebook's page"
    folder, name = posixpath.split(notebook)
    return posixpath.join(folder, re.sub(r'^\d+[a-zA-Z0-9]*_', '', name.lower()))

def notebooks_in(folder):
    "Paths of the notebooks of a folder and the folders in it, relative to it"
    found = (p.relative_to(folder) for p in Path(folder).rglob('*.ipynb'))
    return sorted(p.as_posix() for p in found if not any(part.startswith(('.', '_')) for part in p.parts))

# Staging

def map_prose(
    nb, # A notebook, changed in place
    fn, # Text to text
):
    "Apply `fn` to a notebook's markdown: its cells and its outputs"
    for cell in nb['cells']:
        if cell['cell_type'] == 'markdown': cell['source'] = fn(''.join(cell['source']))
        for out in cell.get('outputs', []):
            data = out.get('data', {})
            if 'text/markdown' in data: data['text/markdown'] = fn(''.join(data['text/markdown']))

def edit_notebook(path, fn):
    "Let `fn` change the notebook in a file"
    nb = json.loads(path.read_text(encoding='utf-8'))
    fn(nb)
    path.write_text(json.dumps(nb, ensure_ascii=False, indent=1), encoding='utf-8')

def show_texts(nb):
    "Show a result that is a text, such as an error's message, without the quotes of Python"
    for data in (out.get('data', {}) for cell in nb['cells'] for out in cell.get('outputs', [])):
        shown = ''.join(data.get('text/plain', ''))
        if [*data] == ['text/plain'] and shown[:1] in ('"', "'"):
            try: data['text/plain'] = str(ast.literal_eval(shown))
            except (SyntaxError, ValueError): pass  # something else that begins so

SCROLLS = '<div class="table-scroll" tabindex="0" role="region" aria-label="Table">'

def scroll_tables(nb):
    "Let a table that is wider than the page be scrolled by keyboard, too, with a shadow that shows that it goes on"
    for out in (out for cell in nb['cells'] for out in cell.get('outputs', [])):
        html = ''.join(out.get('data', {}).get('text/html', ''))
        if '<table' not in html: continue
        html = re.sub(r'<style scoped>.*?</style>', '', html, flags=re.S)
        out['data']['text/html'] = f'{SCROLLS}{html}</div>'

def plain_code(
    markdown, # Text with fenced code, in which nbdev links names as in prose, and prefixes the notebook's own classes
): # The text with those names plain
    "Take Markdown links and `__main__` out of fenced code"
    def plain(match):
        text = re.sub(r'\[(`[^`\n]+`)\]\([^)\s]+\)', r'\1', match[0])
        text = text.replace('__main__.', '').replace(':NoneType=None', '=None')
        return re.sub(r'keras\.src\.(\w+)\.[\w.]*\.(\w+)', r'keras.\1.\2', text)  # where users find a class
    return re.sub(r'^(```+).*?^\1', plain, markdown, flags=re.M | re.S)

def relative(
    markdown, # Text with links
    folder='', # Of its page within the site, such as `experiments`
): # Text whose links to this site's pages are relative
    "Make links to the published site's pages relative"
    up = '../' * (folder.count('/') + 1) if folder else ''
    return re.sub(rf'(\]\(|href="){re.escape(docs_url())}(?=\w)', rf'\1{up}', markdown)

def sidebar_must_be_whole():
    "Stop unless `nbs/sidebar.yml` names every notebook once"
    named = re.findall(r'[\w/.-]+\.ipynb', Path('nbs/sidebar.yml').read_text(encoding='utf-8'))
    there = notebooks_in('nbs')
    faults = [f'{n} is in nbs/, but not in the sidebar' for n in there if n not in named]
    faults += [f'{n} is in the sidebar, but not in nbs/' for n in named if n not in there]
    faults += [f'{n} is in the sidebar twice' for n in sorted(set(named)) if named.count(n) > 1]
    if faults: raise SystemExit('\n'.join([*faults, 'nbs/sidebar.yml and the notebooks do not agree: edit it']))

def stage():
    "Let nbdev process the notebooks into `_proc/`, with links between pages made relative"
    sidebar_must_be_whole()
    refresh_quarto_yml()
    staged = proc_nbs('nbs', n_workers=0, force=True)  # in this process: TensorFlow is imported once
    for name in notebooks_in(staged):
        def finish(nb):
            map_prose(nb, lambda s: relative(plain_code(s), posixpath.dirname(name)))
            scroll_tables(nb)
            show_texts(nb)
        edit_notebook(staged/name, finish)
    title, text = Path('CHANGELOG.md').read_text(encoding='utf-8').split('\n', 1)
    (staged/'changelog.qmd').write_text(f'---\ntitle: {title.removeprefix("# ")}\n---\n{text}', encoding='utf-8')
    return staged

# The README

class Rows(HTMLParser):
    "The text of a table's cells, row by row"
    def __init__(self, html):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('th', 'td'): self.rows[-1].append(''); self.inside = True

    def handle_endtag(self, tag):
        if tag in ('th', 'td'): self.inside = False

    def handle_data(self, data):
        if self.inside: self.rows[-1][-1] += data.strip()

def pipe_table(
    html, # One HTML table, such as pandas writes
): # The same as Markdown
    "An HTML table as a Markdown one"
    head, *body = [[c.replace('|', r'\|') for c in row] for row in Rows(html).rows]
    if body and not head[0] and not any(body[0][1:]): head[0] = body.pop(0)[0]  # the index's name has a row of its own
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in [head, ['---'] * len(head), *body])

def output_markdown(out, picture):
    "An output of a cell as Markdown; `picture` keeps a figure and gives its Markdown"
    if out['output_type'] == 'stream': return fenced(''.join(out['text']))
    data = {k: v if isinstance(v, str) else ''.join(v) for k, v in out.get('data', {}).items()}
    if 'text/markdown' in data: return data['text/markdown']
    if '<table' in data.get('text/html', ''): return pipe_table(data['text/html'])
    if 'image/png' in data: return picture(b64decode(data['image/png']))
    return fenced(data['text/plain']) if data.get('text/plain') else ''

def fenced(text, lang=''): return f'```{lang}\n{text.strip()}\n```'

def cell_markdown(
    cell, # As `FilterDefaults` leaves it
    pictures, # Files of figures by name, added to
):
    "A staged cell as Markdown"
    source = ''.join(cell['source']).strip()
    if cell['cell_type'] == 'markdown': return source
    if cell['cell_type'] != 'code': return ''
    options = set(re.findall(r'^#\| *(\w+): *false', source, re.M))
    if 'include' in options: return ''
    alt = re.search(r'^#\| *fig-alt: *"?(.*?)"?$', source, re.M)
    def picture(png):
        name = f'images/home_{len(pictures) + 1}.png'
        pictures[name] = png
        return f'![{alt[1] if alt else ""}](nbs/{name})'
    source = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
    code = [fenced(source, 'python')] if source and 'echo' not in options else []
    outputs = [output_markdown(out, picture) for out in cell.get('outputs', []) if 'output' not in options]
    return '\n\n'.join(filter(None, [*code, *outputs]))

def readme_link(match):
    "Point a link of the index at the published page, or an image at its file"
    before, target = match.groups()
    if re.match(r'[a-z]+:|#', target): return match[0]
    file, hash_, anchor = target.partition('#')
    if file.endswith('.ipynb'): file = page_name(file).replace('.ipynb', '.html')
    if file.endswith('.html'): return before + docs_url() + file + hash_ + anchor
    return before + posixpath.normpath(f'nbs/{target}')

def make_readme():
    "README.md from the index notebook, the same whatever renders the site; and the files of its figures by name"
    index = Path('nbs')/get_config().readme_nb
    nb = read_nb(index)
    FilterDefaults()(nb)
    meta = nb.frontmatter_
    def links(s): return re.sub(r'(\]\(|\bsrc=")([^)\s"]+)', readme_link, s)
    map_prose(nb, links)
    pictures = {}
    cells = [cell_markdown(c, pictures) for c in nb.cells if c.get('source')]
    warning = f'<!-- Made from {index.as_posix()} by `python tools/build_docs.py --readme`: edit that. -->'
    subtitle = f"> {meta['description']}" if meta.get('description') else ''
    cells = [c for c in cells if not c.startswith('<!-- WARNING')]
    title = f"# {meta.get('title', get_config().title)}"
    return '\n\n'.join(filter(None, [warning, title, subtitle, *cells])) + '\n', pictures

def write_readme():
    "Write README.md and its figures"
    text, pictures = make_readme()
    Path('README.md').write_text(text, encoding='utf-8')
    for name, png in pictures.items(): Path('nbs', name).write_bytes(png)

def readme_must_match():
    "Stop unless README.md is what the index notebook gives"
    from difflib import unified_diff
    old, (new, pictures) = Path('README.md').read_text(encoding='utf-8'), make_readme()
    diff = list(unified_diff(old.splitlines(), new.splitlines(), 'README.md', 'nbs/index.ipynb', lineterm='', n=1))
    advice = 'README.md is not up to date: run `python tools/build_docs.py --readme`'
    files = {name: Path('nbs', name) for name in pictures}
    diff += [f'{p} is not the figure' for n, p in files.items() if not p.is_file() or p.read_bytes() != pictures[n]]
    if diff: raise SystemExit('\n'.join([*diff[:40], advice]))

# Rendering

def add_search_phrases(built):
    "Let search find pages by what people call a thing, from `nbs/search.yml`"
    index, file = yaml.safe_load(Path('nbs/search.yml').read_text(encoding='utf-8')), built/'search.json'
    entries = json.loads(file.read_text(encoding='utf-8'))
    titles = {e['href'].split('#')[0]: e['title'] for e in entries}
    if unknown := [page for page in index if f'{page}.html' not in titles]:
        raise SystemExit(f'nbs/search.yml names pages that are not there: {unknown}')
    for page, phrases in index.items():
        href = f'{page}.html'
        new = [dict(objectID=f'{href}#{p}', href=href, title=titles[href], section=p, text='') for p in phrases]
        entries += new
    file.write_text(json.dumps(entries, ensure_ascii=False), encoding='utf-8')

def replace_site(built):
    "Put a built site in the place of `_docs/`"
    add_search_phrases(built)
    dest = Path(get_config().doc_path)
    shutil.rmtree(dest, ignore_errors=True)
    shutil.move(str(built), dest)

def render_quarto(staged):
    "Render with Quarto"
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=staged, check=True)
    replace_site(staged/get_config().doc_path.name)

def renamed(markdown):
    "Links between notebooks, turned into links between the files that smalldocs is given"
    def rename(match): return match[0] if '://' in match[2] else match[1] + page_name(match[2])
    return re.sub(r'(\]\(|href=")([^)\s"#]+\.ipynb)', rename, markdown)

def for_smalldocs(
    staged, # What nbdev staged for Quarto
    dest, # A new folder
): # Notebook by page, paths within the site
    "Copy a staged project to where smalldocs finds what Quarto does itself: page names, themes without Sass"
    shutil.copytree(staged, dest)
    names = {n: page_name(n) for n in notebooks_in(dest)}
    for old, new in names.items():
        edit_notebook(dest/old, lambda nb: map_prose(nb, renamed))
        text = re.sub(r'\boutput-file: [^\\]*\\n', '', (dest/old).read_text(encoding='utf-8'), count=1)
        (dest/old).unlink()
        (dest/new).write_text(text, encoding='utf-8')
    sidebar = dest/'sidebar.yml'
    sidebar.write_text(re.sub(r'[\w/.-]+\.ipynb', lambda m: page_name(m[0]), sidebar.read_text()))
    project = yaml.safe_load((dest/'_quarto.yml').read_text())
    html = project['format']['html']
    for quartos_own in 'html-math-method', 'grid': html.pop(quartos_own, None)
    html['theme'] = {mode: theme[0] for mode, theme in html['theme'].items()}
    (dest/'_quarto.yml').write_text(yaml.safe_dump(project, sort_keys=False))
    return {new: old for old, new in names.items()}

def mathml(match):
    "A formula as MathML, which browsers read without a script or a font of ours"
    from latex2mathml.converter import convert
    display = match[1] == 'display'
    tex = re.sub(r'\{(aligned|gathered)\}', '{align}', unescape(match[2]))
    return f'<span class="math {match[1]}">{convert(tex, display="block" if display else "inline")}</span>'

def with_contents(html):
    "A page of smalldocs with its contents below the title, too, for phones, where the margin is not shown"
    toc = re.search(r'<nav id="TOC".*?(<ul>.*</ul>)</nav>', html, re.S)
    if not toc: return html
    links = re.sub(r' (?:id|class|data-scroll-target)="[^"]*"', '', toc[1])
    details = f'<details class="page-contents"><summary>On this page</summary>{links}</details>'
    return html.replace('</header><!--', f'</header>{details}<!--', 1)

def finish_page(
    html, # A page smalldocs wrote
    notebook, # The path of its notebook
    page, # The path smalldocs had for it
): # The page with its formulas in it and nothing from another host
    "What a page of smalldocs needs to be read offline"
    html = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, html, flags=re.S)
    html = re.sub(r'\s*<(?:link|script)\b[^>]*\bkatex@[^>]*>(?:</script>)?', '', html)
    html = html.replace('<div class="sd-table">', SCROLLS)
    return with_contents(html).replace(f'/nbs/{page}"', f'/nbs/{notebook}"')

def render_smalldocs(staged):
    "Render with smalldocs, which is pure Python"
    from smalldocs.site import build
    with tempfile.TemporaryDirectory() as tmp:
        work = Path(tmp)/'site'
        notebooks = for_smalldocs(staged, work)
        site = build(work, quiet=True)
        for warning in site.warnings: print('smalldocs:', warning, file=sys.stderr)
        for page, notebook in notebooks.items():
            path = (site.out/page).with_suffix('.html')
            path.write_text(finish_page(path.read_text(encoding='utf-8'), notebook, page), encoding='utf-8')
        for css in site.out.rglob('*.css'):
            text = css.read_text(encoding='utf-8')
            local = re.sub(r'@import url\(https?:[^)]*\);?', '', text)
            if local != text: css.write_text(local, encoding='utf-8')
        replace_site(site.out)

@call_parse
def main(
    readme:bool=False, # Only write README.md from the index notebook
    check_readme:bool=False, # Only check that README.md is what the index notebook gives
    renderer:str='', # 'quarto' or 'smalldocs'; quarto where it is on the PATH unless given
):
    "Build the documentation"
    os.chdir(top)
    if readme: return write_readme()
    if check_readme: return readme_must_match()
    renderer = renderer or ('quarto' if shutil.which('quarto') else 'smalldocs')
    dict(quarto=render_quarto, smalldocs=render_smalldocs)[renderer](stage())
    built = get_config().doc_path
    print(f'{len(list(built.rglob("*.html")))} pages by {renderer} in {built.name}/')
