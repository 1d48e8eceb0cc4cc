"""The HTML report: what it shows (`model`), how collectors' records become that (`collectors`, `story`), and the page that draws it.

`page.html`, the `*.css` and the `*.js` beside this file are put together by kmatrix.report.html.
"""
