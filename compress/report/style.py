"""The page's style: one sheet, light and dark, wide and narrow, on screen and on paper."""

CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5b6675;--line:#e1e5ea;
--ghost:#d9dee5;
--good:#14764a;--good-bg:#e4f5ec;--bad:#b3261e;--bad-bg:#fdeae8;--open:#8a5a00;--open-bg:#fff3d6;
--c0:#5b6675;--c1:#2a6fdb;--c2:#0f9d76;--c3:#c2611a;--c4:#8a4fc7;--c5:#2a6fdb;--c6:#b03a6b}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b2129;--ink:#e6eaf0;--soft:#9aa6b5;
--line:#2d3641;
--ghost:#36404d;--good:#63d39b;--good-bg:#173427;--bad:#ff8f85;--bad-bg:#3d1c1a;--open:#f2c35b;
--open-bg:#3a2d10;
--c0:#a3afbf;--c1:#6ba4ff;--c2:#3ecfa3;--c3:#f0914a;--c4:#bd8bf2;--c5:#6ba4ff;--c6:#f08db5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:25px;line-height:1.2;margin:0 0 2px}h2{font-size:17px;margin:0 0 12px}h3{font-size:14px;
margin:0 0 8px}
p{margin:0 0 8px}.soft,caption,.note{color:var(--soft)}.note{font-size:13px;margin:10px 0 0}
section,.banner{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;
margin-top:16px}
.banner{border-left:6px solid var(--open);background:var(--open-bg)}
.banner b{font-size:20px;color:var(--open)}.banner p{margin:2px 0 0}
.banner.good{border-left-color:var(--good);background:var(--good-bg)}.banner.good b{color:var(--good)}
.banner.bad{border-left-color:var(--bad);background:var(--bad-bg)}.banner.bad b{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin-top:16px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile span{display:block;font-size:13px;color:var(--soft)}.tile strong{font-size:21px;font-weight:650}
table.dense td{padding:5px 12px 5px 0;line-height:1.35}table.dense td:nth-child(7){white-space:normal;
min-width:230px}table.dense td:nth-child(n+9){white-space:nowrap}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:24px 32px}
.two>*{min-width:0}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12.5px;vertical-align:bottom}
th,td{padding:6px 10px 6px 0;border-bottom:1px solid var(--line)}td{vertical-align:top}
tbody:last-child tr:last-child td{border-bottom:0}.r{text-align:right;white-space:nowrap}
.nw{white-space:nowrap}
tbody.stage>tr:first-child>td{border-top:2px solid var(--line)}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
.tag{display:inline-block;border-radius:5px;padding:0 7px;font-size:12px;font-weight:600}
.tag.good{background:var(--good-bg)}.tag.bad{background:var(--bad-bg)}.tag.open{background:var(--open-bg)}
.small{font-size:12px;color:var(--soft)}.small.good{color:var(--good)}.small.bad{color:var(--bad)}
ul{margin:0;padding-left:20px}li{margin-bottom:6px}
pre{margin:0;font:12.5px/1.45 ui-monospace,"DejaVu Sans Mono",Menlo,monospace;overflow-x:auto}
summary{cursor:pointer;font-weight:600}details[open] summary{margin-bottom:12px}
svg{display:block;width:100%;height:auto;max-width:620px;font:11.5px system-ui,"DejaVu Sans",sans-serif}
svg text{fill:var(--ink)}svg .tick,svg .axis,svg .label{fill:var(--soft)}svg .group{font-weight:600}
svg .label{paint-order:stroke;stroke:var(--card);stroke-width:4px}
svg .grid{stroke:var(--line)}svg .rule{stroke:var(--soft)}svg .error{stroke-width:1.5;opacity:.55}
svg .path{fill:none;stroke:var(--soft);stroke-dasharray:4 4}
svg .ghost{fill:var(--ghost)}svg .ring{fill:none;stroke-width:2}svg .hollow{fill:var(--card);stroke-width:2}
svg .dot{stroke:var(--card);stroke-width:1.5}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12.5px;color:var(--soft);margin-top:6px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.f-0{fill:var(--c0);background:var(--c0)}.f-1{fill:var(--c1);background:var(--c1)}
.f-2{fill:var(--c2);background:var(--c2)}.f-3{fill:var(--c3);background:var(--c3)}
.f-4{fill:var(--c4);background:var(--c4)}.f-5{fill:var(--c5)}.f-6{fill:var(--c6);background:var(--c6)}
.s-0{stroke:var(--c0)}.s-1{stroke:var(--c1)}.s-2{stroke:var(--c2)}.s-3{stroke:var(--c3)}.s-4{stroke:var(--c4)}.s-6{stroke:var(--c6)}
@media(max-width:640px){main{padding:16px 10px 32px}section,.banner{padding:14px}h1{font-size:21px}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
