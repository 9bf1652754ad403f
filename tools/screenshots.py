"Pictures of every page of the built site, wide and narrow, light and dark; needs Chromium on the PATH"
import functools, http.server, shutil, subprocess, tempfile, threading
from pathlib import Path

from fastcore.script import call_parse

_flags = ('--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking '
          '--disable-component-update --disable-sync --no-first-run --virtual-time-budget=4000').split()

class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves the site without a log, and each page also in a frame of a given width at `/frame/WIDTH/HEIGHT/SCHEME/PAGE`"
    def log_message(self, *args): pass

    def do_GET(self):
        if not self.path.startswith('/frame/'): return super().do_GET()
        width, height, scheme, page = self.path.split('/', 5)[2:]
        body = (f'<body style="margin:0"><script>localStorage.setItem("smalldocs-scheme", "{scheme}")</script>'
                f'<iframe src="/{page}" style="border:0;width:{width}px;height:{height}px"></iframe>').encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.end_headers()
        self.wfile.write(body)

def serve(root):
    "A server of a folder on a free port, in a thread"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

@call_parse
def main(
    dest:str, # Folder for the pictures
    root:str='_docs', # The built site
    height:int=2400, # Pixels of each page from its top
    pages:str='*.html', # Which pages
):
    "Take the pictures"
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: raise SystemExit('Chromium is not on the PATH')
    Path(dest).mkdir(parents=True, exist_ok=True)
    server = serve(root)
    for path in sorted(Path(root).rglob(pages)):
        page = path.relative_to(root)
        for width in 1280, 400:
            for scheme, stored in dict(light='default', dark='alternate').items():
                name = page.with_suffix('').as_posix().replace('/', '-')
                shot = Path(dest)/f'{name}-{width}-{scheme}.png'
                address = f'http://127.0.0.1:{server.server_port}/frame/{width}/{height}/{stored}/{page.as_posix()}'
                with tempfile.TemporaryDirectory() as profile:
                    subprocess.run([browser, *_flags, f'--user-data-dir={profile}', f'--screenshot={shot}',
                                    f'--window-size={max(width, 500)},{height}', address],
                                   check=True, capture_output=True)
                print(shot)
    server.shutdown()
