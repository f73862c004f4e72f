// What people type, as message content: plain text, and HTML only where they used Markdown or mentioned somebody.
import { Marked, type Token } from "marked";

// The same entities as marked writes, so that names are found again in its output.
const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (s: string): string => s.replace(/[&<>"']/g, (c) => entities[c]!);

const marked = new Marked({
    gfm: true,
    breaks: true,
    async: false,
    // Four spaces at the start of a line are how people paste things, not code; fences stay.
    tokenizer: { code: () => undefined },
    renderer: {
        // HTML that somebody typed is text.
        html: ({ text }) => escape(text),
        image: ({ href, text }) => escape(text || href),
    },
});

export interface Mention {
    userId: string;
    /** As it stands in the text after "@". */
    name: string;
}

export interface TextContent {
    body: string;
    format?: "org.matrix.custom.html";
    formatted_body?: string;
    "m.mentions": { user_ids?: string[]; room?: boolean };
}

function isPlain(tokens: Token[]): boolean {
    return tokens.every((token) => {
        if (token.type === "paragraph" || token.type === "text") return !("tokens" in token) || isPlain(token.tokens ?? []);
        // A bare address becomes a link at the reader's end anyway.
        if (token.type === "link") return token.raw === token["text"];
        return ["space", "br", "html"].includes(token.type);
    });
}

/** toContent makes the text part of a message. */
export function toContent(text: string, mentions: Mention[] = []): TextContent {
    const body = text.trim();
    const used = mentions.filter((m) => body.includes(`@${m.name}`));
    const userIds = [...new Set(used.map((m) => m.userId))];
    const wanted: TextContent["m.mentions"] = { ...(userIds.length ? { user_ids: userIds } : {}), ...(/(^|\s)@room\b/.test(body) ? { room: true } : {}) };
    const tokens = marked.lexer(body);
    if (isPlain(tokens) && used.length === 0) return { body, "m.mentions": wanted };
    let html = (marked.parse(body) as string).trim();
    // Longer names first, so that "@Ann Lee" is not taken for "@Ann".
    for (const m of [...used].sort((a, b) => b.name.length - a.name.length)) {
        html = html.replaceAll(`@${escape(m.name)}`, `<a href="https://matrix.to/#/${encodeURIComponent(m.userId)}">${escape(m.name)}</a>`);
    }
    const single = /^<p>((?:(?!<p>)[\s\S])*)<\/p>$/.exec(html);
    return { body, format: "org.matrix.custom.html", formatted_body: single ? single[1]! : html, "m.mentions": wanted };
}
