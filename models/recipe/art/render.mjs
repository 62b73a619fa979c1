// Renders icons of icon sets to square PNG files with transparency: node render.mjs JOB.json
//
// JOB.json: {"packages": node_modules folder, "size_px": n, "icons": [[package, slug, file], ...]}.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(join(job.packages, "render.js"));
const { Resvg } = require("@resvg/resvg-js");

for (const [name, slug, file] of job.icons) {
  const set = require(`${name}/icons.json`);
  const icon = set.icons[set.aliases?.[slug]?.parent ?? slug];
  const width = icon.width ?? set.width;
  const height = icon.height ?? set.height;
  const svg =
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
    `width="${job.size_px}" height="${job.size_px}" viewBox="0 0 ${width} ${height}">${icon.body}</svg>`;
  const picture = new Resvg(svg, { fitTo: { mode: "width", value: job.size_px } });
  writeFileSync(file, picture.render().asPng());
}
