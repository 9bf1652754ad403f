"Check that a built site is whole: links, anchors, images and other files it loads"
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastcore.script import call_parse

_loads = dict.fromkeys('img script iframe source video audio embed track'.split(), 'src') | dict(object='data')
_loading_rels = {'stylesheet', 'icon', 'preload', 'modulepreload', 'manifest'}

class Page(HTMLParser):
    "What one page offers to link to, and what it refers to"
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads, self.in_style = {'', 'top'}, [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.in_style = tag == 'style'
        self.anchors |= {a[k] for k in ('id', 'name') if a.get(k)}
        if tag == 'a' and 'href' in a: self.links.append(a['href'] or '')
        if tag == 'link' and _loading_rels & set((a.get('rel') or '').split()): self.loads.append(a['href'])
        if a.get(_loads.get(tag)): self.loads.append(a[_loads[tag]])
        self.loads += [part.split()[0] for part in (a.get('srcset') or '').split(', ') if part]
        self.loads += css_urls(a.get('style') or '')

    def handle_data(self, data):
        if self.in_style: self.loads += css_urls(data)

def css_urls(css):
    "Addresses a style sheet loads"
    css = re.sub(r'/\*.*?\*/', '', css, flags=re.S)
    found = re.findall(r'''url\(\s*("[^"]*"|'[^']*'|[^)'"\s]+)\s*\)|@import\s+("[^"]+"|'[^']+')''', css)
    return [(a or b).strip('"\'') for a, b in found]

def is_inline(url): return url.startswith(('data:', 'mailto:', 'javascript:', 'about:', 'blob:'))
def is_remote(url): return bool(urlsplit(url).netloc) or urlsplit(url).scheme in ('http', 'https')

class Site:
    "A folder of pages and style sheets"
    def __init__(self, root):
        self.root = Path(root).resolve()
        self.pages = {p: Page(p.read_text(encoding='utf-8')) for p in sorted(self.root.rglob('*.html'))}
        self.sheets = {p: css_urls(p.read_text(encoding='utf-8')) for p in sorted(self.root.rglob('*.css'))}

    def target(self, page, url):
        "The file a relative address means"
        path = unquote(urlsplit(url).path)
        file = page if not path else self.root/path.lstrip('/') if path.startswith('/') else page.parent/path
        file = file.resolve()
        return file/'index.html' if file.is_dir() else file

    def link_problem(self, page, url):
        "Why a link is broken, or None"
        if is_inline(url) or is_remote(url): return
        file = self.target(page, url)
        if self.root not in file.parents: return 'leaves the site'
        if not file.is_file(): return 'no such file'
        anchor = unquote(urlsplit(url).fragment)
        if file in self.pages and anchor not in self.pages[file].anchors: return 'no such anchor'

    def load_problem(self, page, url):
        "Why a file that a page loads is missing or not the site's own, or None"
        if is_inline(url) or url.startswith('#'): return
        return 'loads from another host' if is_remote(url) else self.link_problem(page, url)

    def problems(self):
        "Each problem as (file, address, reason)"
        found = [(p, u, self.link_problem(p, u)) for p, page in self.pages.items() for u in page.links]
        loads = [*((p, page.loads) for p, page in self.pages.items()), *self.sheets.items()]
        found += [(p, u, self.load_problem(p, u)) for p, urls in loads for u in urls]
        return [(p.relative_to(self.root), u, why) for p, u, why in dict.fromkeys(found) if why]

    def size(self):
        "How many addresses were checked"
        in_pages = sum(len(p.links) + len(p.loads) for p in self.pages.values())
        return in_pages + sum(map(len, self.sheets.values()))

@call_parse
def main(
    root:str='_docs', # The built site
    remote_ok:bool=False, # Only report files loaded from another host
):
    "Exit with a list unless every link of the site leads somewhere and every file it loads is its own"
    site = Site(root)
    if not site.pages: raise SystemExit(f'no pages in {root}')
    problems = site.problems()
    for problem in problems: print('{}: {!r} {}'.format(*problem))
    fatal = [p for p in problems if not (remote_ok and 'another host' in p[2])]
    print(f'{len(site.pages)} pages, {site.size()} links and files checked, {len(fatal)} broken')
    if fatal: raise SystemExit(1)
