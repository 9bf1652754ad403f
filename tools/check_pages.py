"""Check the built site in a browser: accessibility of every page, wide and narrow, light and dark; and search.

    python tools/check_pages.py AXE    # axe.min.js, as the npm package axe-core has it

Needs Chromium and its driver on the PATH.
"""
import functools, http.server, shutil, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastcore.script import call_parse
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

WIDTHS, SCHEMES = (1280, 400), dict(light='default', dark='alternate')
SERIOUS = 'serious', 'critical'

# What people type, and the page that must be among the first three
SEARCHES = {
    'own images': 'guides/own_folder', 'own pictures': 'guides/own_folder', 'grey images': 'guides/own_folder',
    'folder of pictures': 'guides/own_folder', 'train and test folders': 'guides/own_folder',
    'few labels': 'guides/few_labels', 'ten pictures': 'guides/few_labels', 'choosing a method': 'guides/choosing',
    'ImageNet': 'guides/choosing', 'near-duplicates': 'guides/search', 'similar pictures': 'guides/search',
    'Grad-CAM': 'guides/looking', 'export': 'guides/exporting', 'Raspberry Pi': 'guides/exporting',
    'ONNX': 'guides/exporting', 'overfitting': 'guides/training', 'out of memory': 'guides/troubleshooting',
    'error message': 'guides/troubleshooting', 'install': 'quickstart', 'number of parameters': 'models',
}

class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves files without a log"
    def log_message(self, *args): pass

def serve(root):
    "A server of a folder on a free port, in a thread"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

def start_browser():
    "Chromium without a screen"
    options = webdriver.ChromeOptions()
    for flag in ('headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking '
                 'disable-component-update disable-sync').split(): options.add_argument(f'--{flag}')
    options.binary_location = shutil.which('chromium') or shutil.which('google-chrome') or ''
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))

def set_width(browser, width):
    "Give the page a width in CSS pixels"
    size = dict(width=width, height=1000, deviceScaleFactor=1, mobile=False)
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)

def set_scheme(browser, address, scheme):
    "Choose the light or the dark mode of a site"
    browser.get(f'{address}/index.html')
    browser.execute_script(f'localStorage.setItem("smalldocs-scheme", "{SCHEMES[scheme]}")')

def violations(browser, axe, rules=None):
    "Serious and critical findings of axe on the page that is open: (rule, element, why)"
    browser.execute_script(axe)
    only = dict(runOnly=rules) if rules else {}
    found = browser.execute_async_script("""
        const [only, done] = arguments;
        const failed = e => done([{id: String(e), impact: 'critical', nodes: [{html: '', failureSummary: ''}]}])
        axe.run(document, {resultTypes: ['violations'], ...only}).then(r => done(r.violations), failed)""", only)
    return [(v['id'], node['html'][:160], node.get('failureSummary', '').replace('\n', ' ')[:200])
            for v in found if v['impact'] in SERIOUS for node in v['nodes']]

def check_access(pages, address, axe):
    "Findings on some pages at both widths in both modes"
    browser, found = start_browser(), []
    try:
        browser.set_script_timeout(120)
        for scheme in SCHEMES:
            rules = ['color-contrast', 'link-in-text-block'] if scheme == 'dark' else None  # it changes colours alone
            set_scheme(browser, address, scheme)
            for width in WIDTHS:
                set_width(browser, width)
                for page in pages:
                    browser.get(f'{address}/{page}')
                    found += [(f'{page}, {width} px, {scheme}', *v) for v in violations(browser, axe, rules)]
    finally: browser.quit()
    return found

def first_hits(browser, query, n=3):
    "The pages of the first hits, a page once"
    field = browser.find_element(By.CSS_SELECTOR, '.smalldocs-search input')
    browser.execute_script("document.querySelectorAll('.smalldocs-search-results').forEach(r => r.innerHTML = '')")
    field.clear()
    field.send_keys(query)
    def hits(_): return browser.execute_script(
        "return [...document.querySelectorAll('.smalldocs-search-results > *')].map(a => a.getAttribute('href') || '')")
    found = WebDriverWait(browser, 20).until(hits)
    return list(dict.fromkeys(h.removeprefix('./').split('.html')[0] for h in found))[:n]

def check_search(address):
    "Queries whose page is not among the first three"
    browser = start_browser()
    try:
        browser.get(f'{address}/index.html')
        set_width(browser, WIDTHS[0])
        hits = {query: first_hits(browser, query) for query in SEARCHES}
    finally: browser.quit()
    return [(query, page, hits[query]) for query, page in SEARCHES.items() if page not in hits[query]]

@call_parse
def main(
    axe:str, # The file axe.min.js
    root:str='_docs', # The built site
    pages:str='*.html', # Which pages
    workers:int=2, # Browsers at once
):
    "Exit with a list unless every page can be read by everybody and search answers the usual questions"
    files = [p.relative_to(root).as_posix() for p in sorted(Path(root).rglob(pages))]
    if not files: raise SystemExit(f'no pages {pages} in {root}: run tools/build_docs.py')
    script, server = Path(axe).read_text(encoding='utf-8'), serve(root)
    address = f'http://127.0.0.1:{server.server_port}'
    parts = [part for i in range(workers) if (part := files[i::workers])]
    with ThreadPoolExecutor(workers) as pool:
        found = [f for part in pool.map(lambda part: check_access(part, address, script), parts) for f in part]
    missed = check_search(address)
    server.shutdown()
    for where, rule, element, why in found: print(f'{where}: {rule}: {element}\n    {why}')
    for query, page, hits in missed: print(f'search {query!r}: {page} expected among {hits}')
    print(f'{len(files)} pages at {WIDTHS} pixels in {len(SCHEMES)} modes: {len(found)} serious findings; '
          f'{len(SEARCHES)} searches: {len(missed)} missed')
    if found or missed: raise SystemExit(1)
