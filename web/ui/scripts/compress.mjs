// Puts FILE.br and FILE.gz beside every file of ../dist that is worth it, so that the server never compresses
// the client while it answers.
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const worth = /\.(js|mjs|css|html|json|svg|wasm|webmanifest|txt|map)$/;
function* walk(dir) {
    for (const name of readdirSync(dir)) {
        const path = join(dir, name);
        if (statSync(path).isDirectory()) yield* walk(path);
        else yield path;
    }
}
let before = 0;
let after = 0;
for (const file of walk(fileURLToPath(new URL("../../dist", import.meta.url)))) {
    if (!worth.test(file)) continue;
    const raw = readFileSync(file);
    if (raw.length < 1024) continue;
    // The highest quality takes minutes on the WebAssembly file for 5 % less.
    const quality = raw.length > 2 << 20 ? 9 : 11;
    const br = brotliCompressSync(raw, { params: { [constants.BROTLI_PARAM_QUALITY]: quality, [constants.BROTLI_PARAM_SIZE_HINT]: raw.length } });
    const gz = gzipSync(raw, { level: 9 });
    if (br.length < raw.length) writeFileSync(`${file}.br`, br);
    if (gz.length < raw.length) writeFileSync(`${file}.gz`, gz);
    before += raw.length;
    after += br.length;
}
console.log(`compressed ${(before / 1e6).toFixed(1)} MB to ${(after / 1e6).toFixed(1)} MB (brotli)`);
