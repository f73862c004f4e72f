// Tends the message catalogue src/i18n/en.json.
//   messages.mjs gen            writes src/i18n/messages.gen.ts, the types behind t()
//   messages.mjs check          finds missing and unused keys, and literal text in JSX
//   messages.mjs set KEY TEXT   adds or changes one message (safe beside other writers)
//   messages.mjs merge FILE     adds or changes all messages of a JSON file ("-" = stdin)
// Keys under "identity." are used by the server-rendered pages: they are looked for in /identity/**/*.go
// and its templates, those under "mail." and "notices." there as well, those under "unlock." in /image/unlock, the others in src/.
import { closeSync, existsSync, openSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const catalogue = join(root, "src/i18n/en.json");
const load = () => JSON.parse(readFileSync(catalogue, "utf8"));

// params lists the names used in a message: {name} and {count, plural, one {…} other {…}}.
function params(text) {
    const found = new Map();
    let depth = 0;
    for (let i = 0; i < text.length; i++) {
        if (text[i] === "}") depth--;
        if (text[i] !== "{") continue;
        depth++;
        const m = /^\{(\w+)\s*(,\s*plural\s*,|\})/.exec(text.slice(i));
        if (m) found.set(m[1], m[2] === "}" ? (found.get(m[1]) ?? "string | number") : "number");
    }
    if (depth !== 0) throw new Error(`braces do not match in: ${text}`);
    return found;
}

function write(messages) {
    const sorted = Object.fromEntries(Object.entries(messages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
    const tmp = `${catalogue}.${process.pid}`;
    writeFileSync(tmp, `${JSON.stringify(sorted, null, 2)}\n`);
    renameSync(tmp, catalogue);
}

function update(changes) {
    const lock = `${catalogue}.lock`;
    for (let i = 0; ; i++) {
        try {
            closeSync(openSync(lock, "wx"));
            break;
        } catch (e) {
            if (e.code !== "EEXIST" || i > 100) throw e;
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
        }
    }
    try {
        const messages = { ...load(), ...changes };
        for (const [k, v] of Object.entries(changes)) if (v === null) delete messages[k];
        write(messages);
    } finally {
        rmSync(lock, { force: true });
    }
}

function gen() {
    const lines = Object.entries(load()).map(([key, text]) => {
        const p = [...params(text)].map(([n, t]) => `${n}: ${t}`).join("; ");
        return `    ${JSON.stringify(key)}: ${p ? `{ ${p} }` : "undefined"};`;
    });
    writeFileSync(
        join(root, "src/i18n/messages.gen.ts"),
        `// Generated from en.json by scripts/messages.mjs; do not edit.\nexport interface Messages {\n${lines.join("\n")}\n}\n`,
    );
}

function* walk(dir, ends) {
    if (!existsSync(dir)) return;
    for (const name of readdirSync(dir)) {
        if (name === "node_modules") continue;
        const path = join(dir, name);
        if (statSync(path).isDirectory()) yield* walk(path, ends);
        else if (ends.test(name)) yield path;
    }
}

async function check() {
    const { default: ts } = await import("typescript");
    const keys = new Set(Object.keys(load()));
    const used = new Set();
    const problems = [];
    const spoken = new Set(["title", "alt", "label", "placeholder", "aria-label", "aria-description", "aria-roledescription", "description"]);
    for (const file of walk(join(root, "src"), /\.tsx?$/)) {
        if (file.endsWith(".gen.ts") || /\.test\.tsx?$/.test(file)) continue;
        const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest, true, file.endsWith("x") ? ts.ScriptKind.TSX : ts.ScriptKind.TS);
        const at = (node) => `${relative(root, file)}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
        const visit = (node) => {
            if (ts.isJsxText(node) && /\p{L}/u.test(node.text)) problems.push(`${at(node)}: literal text in JSX: ${node.text.trim()}`);
            if (ts.isJsxAttribute(node) && spoken.has(node.name.getText()) && node.initializer && ts.isStringLiteral(node.initializer) && /\p{L}/u.test(node.initializer.text))
                problems.push(`${at(node)}: literal text in ${node.name.getText()}: ${node.initializer.text}`);
            if (ts.isStringLiteralLike(node) && keys.has(node.text)) used.add(node.text);
            // t(`chat.role.${role}`) uses every key that fits the pattern.
            if (ts.isTemplateExpression(node)) {
                const esc = (s) => s.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
                const re = new RegExp(`^${esc(node.head.text)}${node.templateSpans.map((s) => `[^.]+${esc(s.literal.text)}`).join("")}$`);
                if (node.head.text.includes(".")) for (const k of keys) if (re.test(k)) used.add(k);
            }
            ts.forEachChild(node, visit);
        };
        visit(source);
    }
    const identity = ["identity", "homeserver/account", "homeserver/push", "appliance"].flatMap((dir) => [...walk(join(root, "../..", dir), /\.(go|html|tmpl)$/)]).map((f) => readFileSync(f, "utf8")).join("\n");
    const unlock = [...walk(join(root, "../../image/unlock"), /\.(go|html)$/)].map((f) => readFileSync(f, "utf8")).join("\n");
    for (const key of keys) {
        if (key.startsWith("unlock.")) {
            if (unlock && !unlock.includes(`"${key}"`)) problems.push(`en.json: unused key ${key}`);
        } else if (key.startsWith("identity.")) {
            const short = key.slice("identity.".length);
            // The server puts keys together: a page's name and "title", a problem's name and "text".
            const page = `"${short.split(".")[0]}`;
            if (identity && ![key, `"${short}"`, page].some((part) => identity.includes(part))) problems.push(`en.json: unused key ${key}`);
        } else if (key.startsWith("notices.")) {
            if (identity && !identity.includes(`"${key}"`)) problems.push(`en.json: unused key ${key}`);
        } else if (key.startsWith("mail.")) {
            // What the server mails: a mail's name, and "subject" or "text".
            if (identity && !identity.includes(`"${key}"`) && !identity.includes(`"${key.slice(0, key.lastIndexOf("."))}`) && !/^mail\.(register|add|password|reset)\./.test(key)) problems.push(`en.json: unused key ${key}`);
        } else if (!used.has(key)) problems.push(`en.json: unused key ${key}`);
        try {
            params(load()[key]);
        } catch (e) {
            problems.push(`en.json: ${key}: ${e.message}`);
        }
    }
    for (const m of identity.matchAll(/\{\{-?\s*t "([^"]+)"/g)) if (!keys.has(`identity.${m[1]}`)) problems.push(`identity: missing key identity.${m[1]}`);
    for (const m of unlock.matchAll(/"(unlock\.\w+)"/g)) if (!keys.has(m[1])) problems.push(`image/unlock: missing key ${m[1]}`);
    if (problems.length) {
        console.error(problems.join("\n"));
        process.exit(1);
    }
    console.log(`messages: ${keys.size} keys, none unused or missing, no literal text`);
}

const [cmd, ...args] = process.argv.slice(2);
if (cmd === "gen") gen();
else if (cmd === "check") await check();
else if (cmd === "set") update({ [args[0]]: args[1] });
else if (cmd === "merge") update(JSON.parse(readFileSync(args[0] === "-" ? 0 : args[0], "utf8")));
else {
    console.error("usage: messages.mjs gen|check|set KEY TEXT|merge FILE");
    process.exit(2);
}
