// The last step of the UI build. Puts Element Call beside our own files, compresses everything that is worth it,
// and writes dist/files.json, from which the server knows each file's type, hash and encodings. Compressible files
// are kept only as FILE.br and FILE.gz: they are embedded in the program, so every byte counts.
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import zlib from "node:zlib";

const brotli = promisify(zlib.brotliCompress);
const gzip = promisify(zlib.gzip);
const here = (p) => fileURLToPath(new URL(p, import.meta.url));
const dist = here("../../dist");
const cache = here("../node_modules/.cache/holdfast-compress");

const types = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".tflite": "application/octet-stream",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
};
const worth = new Set([".html", ".js", ".mjs", ".css", ".json", ".map", ".webmanifest", ".txt", ".svg", ".wasm", ".tflite"]);
// Files named after their content, ours (Vite) and Element Call's.
const hashed = /^(?:element-call\/)?assets\/.+-[\w-]{8}\.\w+$/;

// Element Call is served as its makers built it, without the source maps, which are only for debugging and would
// add 17 MB. Its licence and the place of its source stand beside it.
function addElementCall() {
    const pkg = dirname(here("../node_modules/@element-hq/element-call-embedded/package.json"));
    const { version } = JSON.parse(readFileSync(join(pkg, "package.json"), "utf8"));
    const to = join(dist, "element-call");
    rmSync(to, { recursive: true, force: true });
    cpSync(join(pkg, "dist"), to, { recursive: true, filter: (f) => !f.endsWith(".map") });
    cpSync(join(pkg, "LICENSE-AGPL-3.0"), join(to, "LICENSE.txt"));
    writeFileSync(
        join(to, "NOTICE.txt"),
        `Element Call ${version} (embedded build)
Copyright 2021-2025 New Vector Ltd

Licence: GNU Affero General Public License, version 3 or any later version; see LICENSE.txt beside this file.

The files under /element-call/ are those of the npm package @element-hq/element-call-embedded ${version}, unmodified;
its source maps are left out. They are a program of their own: the appliance serves them and talks to them by
window messages (the Matrix widget API) only.

Source of this version: https://github.com/element-hq/element-call/tree/v${version}
The package:            https://www.npmjs.com/package/@element-hq/element-call-embedded/v/${version}
`,
    );
}

function* walk(dir) {
    for (const name of readdirSync(dir).sort()) {
        const path = join(dir, name);
        if (statSync(path).isDirectory()) yield* walk(path);
        else yield path;
    }
}

// cached compresses once per content: the WebAssembly files take seconds.
async function cached(key, make) {
    const path = join(cache, key);
    if (existsSync(path)) return readFileSync(path);
    const bytes = await make();
    writeFileSync(`${path}.${process.pid}`, bytes);
    renameSync(`${path}.${process.pid}`, path);
    return bytes;
}

const index = {};
let before = 0;
let after = 0;
async function add(file) {
    const name = relative(dist, file);
    const type = types[extname(name)];
    if (!type) throw new Error(`${name}: unknown kind of file; add its type to scripts/compress.mjs`);
    const raw = readFileSync(file);
    const sha256 = createHash("sha256").update(raw).digest("hex");
    const entry = { type, sha256, size: raw.length, immutable: hashed.test(name), enc: [] };
    before += raw.length;
    // index.html stays as it is: the Makefile and the server look for it to know that there is a build.
    if (name !== "index.html" && worth.has(extname(name)) && raw.length >= 1024) {
        // The highest quality takes minutes on the large files, for 5 % less.
        const q = raw.length > 1 << 20 ? 9 : 11;
        const [br, gz] = await Promise.all([
            cached(`${sha256}.q${q}.br`, () => brotli(raw, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: q, [zlib.constants.BROTLI_PARAM_SIZE_HINT]: raw.length, [zlib.constants.BROTLI_PARAM_LGWIN]: 24 } })),
            cached(`${sha256}.gz`, () => gzip(raw, { level: 9 })),
        ]);
        if (gz.length < raw.length) {
            writeFileSync(`${file}.br`, br);
            writeFileSync(`${file}.gz`, gz);
            rmSync(file);
            entry.enc = ["br", "gz"];
            after += br.length + gz.length;
        }
    }
    if (entry.enc.length === 0) after += raw.length;
    index[name] = entry;
}

mkdirSync(cache, { recursive: true });
if (!existsSync(join(dist, "index.html"))) throw new Error("dist/index.html is missing: run vite build first");
addElementCall();
const queue = [...walk(dist)];
await Promise.all(
    Array.from({ length: 4 }, async () => {
        for (let file = queue.shift(); file; file = queue.shift()) await add(file);
    }),
);
writeFileSync(join(dist, "files.json"), JSON.stringify(Object.fromEntries(Object.entries(index).sort(([a], [b]) => (a < b ? -1 : 1)))));
console.log(`${Object.keys(index).length} files, ${(before / 1e6).toFixed(1)} MB, embedded as ${(after / 1e6).toFixed(1)} MB (brotli and gzip)`);
