"Pictures of every page of the built site, wide and narrow, light and dark; needs Chromium and its driver on the PATH"
from base64 import b64decode
from pathlib import Path

from fastcore.script import call_parse

from check_pages import SCHEMES, WIDTHS, serve, set_scheme, set_width, start_browser

@call_parse
def main(
    dest:str, # Folder for the pictures
    root:str='_docs', # The built site
    height:int=6000, # Pixels of each page from its top, at most
    pages:str='*.html', # Which pages
):
    "Take the pictures"
    Path(dest).mkdir(parents=True, exist_ok=True)
    server, browser = serve(root), start_browser()
    address = f'http://127.0.0.1:{server.server_port}'
    for path in sorted(Path(root).rglob(pages)):
        page = path.relative_to(root)
        for scheme in SCHEMES:
            set_scheme(browser, address, scheme)
            for width in WIDTHS:
                set_width(browser, width)
                browser.get(f'{address}/{page.as_posix()}')
                tall = min(height, browser.execute_script('return document.documentElement.scrollHeight'))
                clip = dict(x=0, y=0, width=width, height=tall, scale=1)
                shot = browser.execute_cdp_cmd('Page.captureScreenshot', dict(captureBeyondViewport=True, clip=clip))
                file = Path(dest)/f'{page.with_suffix("").as_posix().replace("/", "-")}-{width}-{scheme}.png'
                file.write_bytes(b64decode(shot['data']))
                print(file)
    browser.quit()
    server.shutdown()
