//! The report's style sheet.

pub(super) const STYLE: &str = "
:root { color-scheme: light; --ink: #1a1d21; --soft: #5d6670; --line: #dfe3e8; --blue: #0072b2; --orange: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
p.sub { color: var(--soft); margin: 0 0 20px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 16px 0; }
section > p { color: var(--soft); margin: -6px 0 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 24px; font-weight: 600; line-height: 1.25; }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
svg { max-width: 100%; height: auto; display: block; margin: 0 auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
td, th { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; }
td.bar { min-width: 120px; }
.bar i { display: block; height: 9px; margin-top: 7px; border-radius: 3px; background: var(--blue); }
.matrix td, .matrix th { border: 0; padding: 3px; }
.matrix td { min-width: 40px; height: 34px; text-align: center; vertical-align: middle; border-radius: 4px; }
.matrix th { padding: 3px 8px; color: var(--ink); font-weight: 400; white-space: nowrap; }
.matrix th.top { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 8px 3px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px; }
figure { margin: 0; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px; background: #eceef1; }
figure img.small { image-rendering: pixelated; }
figcaption { font-size: 13px; line-height: 1.4; margin-top: 5px; overflow-wrap: anywhere; }
figcaption .file { color: var(--soft); display: block; font-size: 12px; }
.good { color: var(--blue); } .bad { color: var(--orange); }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 18px; } li { overflow-wrap: anywhere; }
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } }
";
