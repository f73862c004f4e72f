// How hard a password is to guess, roughly: enough to steer people, not a promise.

const common = new Set("password passwort motdepasse wachtwoord 123456 1234567 12345678 123456789 1234567890 qwerty qwertz azerty abc123 letmein welcome willkommen bienvenue welkom admin administrator holdfast iloveyou dragon monkey football sunshine princess secret geheim changeme hallo sommer winter".split(" "));
const rows = ["abcdefghijklmnopqrstuvwxyz", "0123456789", "qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm"];

export const minLength = 10;

// guessable tells whether b follows a so that people and programs try it first.
function guessable(a: string, b: string): boolean {
    if (a === b) return true;
    return rows.some((r) => r.includes(a + b) || r.includes(b + a));
}

/** strength gives 0 (refused) to 4 (strong). `about` are words that a guesser knows: names, the organisation. */
export function strength(password: string, about: string[] = []): 0 | 1 | 2 | 3 | 4 {
    const chars = [...password];
    if (chars.length < minLength) return 0;
    let plain = password.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f]/g, "");
    const bare = plain.replace(/[^\p{L}]/gu, "");
    if (common.has(plain) || common.has(bare)) return 0;
    for (const word of [...common, ...about.flatMap((w) => w.toLowerCase().split(/[\s@.:_-]+/))]) if (word.length >= 3) plain = plain.replaceAll(word, word[0]!);
    // Letters that follow the one before (aaa, 123, qwe) count little.
    let worth = 0;
    const left = [...plain];
    for (let i = 0; i < left.length; i++) worth += i > 0 && guessable(left[i - 1]!, left[i]!) ? 0.2 : 1;
    const kinds = [/\p{Ll}/u, /\p{Lu}/u, /\p{N}/u, /[^\p{L}\p{N}]/u].filter((k) => k.test(password)).length;
    const bits = worth * (2.2 + 0.7 * kinds) * (new Set(left).size < 5 ? 0.4 : 1);
    if (bits < 20) return 0;
    if (bits < 32) return 1;
    if (bits < 44) return 2;
    if (bits < 58) return 3;
    return 4;
}
