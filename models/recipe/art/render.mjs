// Renders icons of an icon set to square PNG files: node render.mjs JOB.json
//
// JOB.json: {"packages": node_modules folder, "size_px": n, "out": folder, "icons": [slug, ...]}.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(join(job.packages, "render.js"));
const { Resvg } = require("@resvg/resvg-js");
const set = require("@iconify-json/fluent-emoji/icons.json");

mkdirSync(job.out, { recursive: true });
for (const slug of job.icons) {
  const icon = set.icons[slug];
  const width = icon.width ?? set.width;
  const height = icon.height ?? set.height;
  const svg =
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
    `width="${job.size_px}" height="${job.size_px}" viewBox="0 0 ${width} ${height}">${icon.body}</svg>`;
  const picture = new Resvg(svg, { background: "white", fitTo: { mode: "width", value: job.size_px } });
  writeFileSync(join(job.out, `${slug}.png`), picture.render().asPng());
}
