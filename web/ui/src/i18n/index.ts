// One message catalogue for the whole product. t() takes a key of en.json and the parameters that its
// text names, both checked by the compiler. Texts know {name} and
// {count, plural, =0 {none} one {# thing} other {# things}}.
import en from "./en.json";
import type { Messages } from "./messages.gen";

export type Key = keyof Messages;
type Params = Record<string, string | number>;

const texts: Record<string, string> = en;
const language = "en";
const plurals = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(language);

/** locale is the language of all texts, dates and numbers. */
export const locale = language;

/** t gives the text of a key. */
export function t<K extends Key>(key: K, ...args: Messages[K] extends undefined ? [] : [Messages[K]]): string {
    return format(texts[key] ?? key, (args[0] ?? {}) as Params);
}

// matchBrace gives the index of the brace that closes the one at `open`.
function matchBrace(text: string, open: number): number {
    let depth = 0;
    for (let i = open; i < text.length; i++) {
        if (text[i] === "{") depth++;
        else if (text[i] === "}" && --depth === 0) return i;
    }
    return text.length;
}

/** format fills a text's parameters in. Unknown names stay as they are. */
export function format(text: string, params: Params): string {
    let out = "";
    for (let i = 0; i < text.length; ) {
        if (text[i] !== "{") {
            out += text[i++];
            continue;
        }
        const end = matchBrace(text, i);
        const inner = text.slice(i + 1, end);
        const plural = /^(\w+)\s*,\s*plural\s*,/.exec(inner);
        if (plural) out += choose(inner.slice(plural[0].length), Number(params[plural[1]!] ?? 0), params);
        else {
            const value = params[inner.trim()];
            out += value === undefined ? text.slice(i, end + 1) : typeof value === "number" ? numbers.format(value) : value;
        }
        i = end + 1;
    }
    return out;
}

function choose(branches: string, n: number, params: Params): string {
    const found = new Map<string, string>();
    const re = /\s*(=\d+|\w+)\s*\{/y;
    for (let m = re.exec(branches); m; m = re.exec(branches)) {
        const open = re.lastIndex - 1;
        const end = matchBrace(branches, open);
        found.set(m[1]!, branches.slice(open + 1, end));
        re.lastIndex = end + 1;
    }
    const branch = found.get(`=${n}`) ?? found.get(plurals.select(n)) ?? found.get("other") ?? "";
    return format(branch.replaceAll("#", numbers.format(n)), params);
}
