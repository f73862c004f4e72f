// Message HTML, made safe: it is parsed into an inert document and rebuilt as React elements from an allow list.
// Nothing that another person wrote is ever put into the page as HTML.
// Spec: cs#mroommessage-msgtypes (allowed tags)
import { createElement, Fragment, type ReactNode } from "react";

const blocks = new Set(["h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "p", "ul", "ol", "li", "hr", "div", "table", "thead", "tbody", "tr", "th", "td", "caption", "pre", "details", "summary"]);
const inline = new Set(["a", "b", "i", "u", "strong", "em", "s", "del", "code", "br", "sub", "sup", "span"]);
// Dropped with all that is inside; other unknown tags lose only the tag.
const dropped = new Set(["mx-reply", "script", "style", "template", "iframe", "object", "embed", "svg", "math", "head", "title", "noscript", "textarea", "select", "audio", "video", "canvas", "form"]);
const maxDepth = 60;
const maxNodes = 5000;

export interface RenderOptions {
    /** Renders a link to a person; gets the Matrix user ID and the link's text. */
    mention?: (userId: string, text: string) => ReactNode;
}

/** safeLink gives the address if a message may link to it. */
export function safeLink(href: string | null): string | undefined {
    if (!href) return undefined;
    let url: URL;
    try {
        url = new URL(href);
    } catch {
        return undefined;
    }
    return ["https:", "http:", "mailto:", "tel:"].includes(url.protocol) ? url.href : undefined;
}

/** mentioned gives the user ID that a link points to, if it is a link to a person. */
export function mentioned(href: string | null): string | undefined {
    const m = /^https:\/\/matrix\.to\/#\/((?:@|%40)[^/?]+)/i.exec(href ?? "") ?? /^matrix:u\/([^/?]+)/.exec(href ?? "");
    if (!m) return undefined;
    try {
        const id = decodeURIComponent(m[1]!);
        return id.startsWith("@") ? id : `@${id}`;
    } catch {
        return undefined;
    }
}

/** renderHtml gives safe elements for the formatted body of a message. */
export function renderHtml(html: string, options: RenderOptions = {}): ReactNode {
    const doc = new DOMParser().parseFromString(html, "text/html");
    const budget = { nodes: maxNodes };
    return <Fragment>{children(doc.body, 0, budget, options, false)}</Fragment>;
}

function children(node: Node, depth: number, budget: { nodes: number }, options: RenderOptions, inLink: boolean): ReactNode[] {
    const out: ReactNode[] = [];
    let key = 0;
    for (const child of node.childNodes) {
        if (--budget.nodes < 0) break;
        const made = render(child, depth, budget, options, inLink);
        if (made !== null) out.push(typeof made === "string" ? made : <Fragment key={key}>{made}</Fragment>);
        key++;
    }
    return out;
}

// Between table and list parts only white space can stand, and React objects to it.
const strict = new Set(["table", "thead", "tbody", "tr", "ul", "ol"]);

function render(node: Node, depth: number, budget: { nodes: number }, options: RenderOptions, inLink: boolean): ReactNode {
    if (node.nodeType === Node.TEXT_NODE) {
        const text = node.nodeValue ?? "";
        const parent = (node.parentNode as Element | null)?.localName ?? "";
        if (strict.has(parent)) return null;
        const plain = inLink || parent === "code" || parent === "pre";
        return plain ? text : linkify(text);
    }
    if (node.nodeType !== Node.ELEMENT_NODE || depth > maxDepth) return null;
    const el = node as Element;
    const tag = el.localName;
    if (dropped.has(tag)) return null;
    if (tag === "img") return el.getAttribute("alt") || el.getAttribute("title") || null;
    const inside = (link = inLink): ReactNode[] => children(el, depth + 1, budget, options, link);
    if (tag === "font" || tag === "strike") return createElement(tag === "strike" ? "s" : "span", null, ...inside());
    if (!blocks.has(tag) && !inline.has(tag)) return <Fragment>{inside()}</Fragment>;
    if (tag === "br" || tag === "hr") return createElement(tag);
    if (tag === "a") {
        const href = el.getAttribute("href");
        const user = mentioned(href);
        if (user && options.mention) return options.mention(user, el.textContent ?? user);
        const safe = safeLink(href);
        if (!safe || inLink) return <Fragment>{inside()}</Fragment>;
        return (
            <a href={safe} target="_blank" rel="noopener noreferrer nofollow">
                {inside(true)}
            </a>
        );
    }
    if (tag === "span" && el.hasAttribute("data-mx-spoiler")) {
        return (
            <details className="spoiler">
                <summary>{el.getAttribute("data-mx-spoiler") || "…"}</summary>
                {inside()}
            </details>
        );
    }
    const props: Record<string, string | number> = {};
    if (tag === "ol") {
        const start = Number(el.getAttribute("start"));
        if (Number.isInteger(start) && start > 0) props["start"] = start;
    }
    // Long lines of code scroll, with the keyboard too.
    if (tag === "pre") props["tabIndex"] = 0;
    // Headings inside a message must not pretend to be headings of the page.
    if (/^h[1-6]$/.test(tag)) return createElement("p", { className: "message-heading" }, ...inside());
    return createElement(tag, props, ...inside());
}

const urls = /\b(?:https?:\/\/|www\.)[^\s<>"'`{}|\\^]+/giu;

function* addresses(text: string): Generator<{ at: number; shown: string; href: string }> {
    for (const m of text.matchAll(urls)) {
        let shown = m[0].replace(/[.,;:!?]+$/, "");
        // A closing bracket belongs to the sentence unless it was opened inside the address.
        while (shown.endsWith(")") && (shown.match(/\(/g)?.length ?? 0) < (shown.match(/\)/g)?.length ?? 0)) shown = shown.slice(0, -1);
        const href = safeLink(shown.startsWith("www.") ? `https://${shown}` : shown);
        if (href) yield { at: m.index, shown, href };
    }
}

/** firstAddress is the first web address in a plain text. */
export function firstAddress(text: string): string | undefined {
    return addresses(text).next().value?.href;
}

/** linkify makes the web addresses in a plain text into links. */
export function linkify(text: string): ReactNode {
    const out: ReactNode[] = [];
    let last = 0;
    for (const { at, shown, href } of addresses(text)) {
        if (at > last) out.push(text.slice(last, at));
        out.push(
            <a key={at} href={href} target="_blank" rel="noopener noreferrer nofollow">
                {shown}
            </a>,
        );
        last = at + shown.length;
    }
    if (out.length === 0) return text;
    if (last < text.length) out.push(text.slice(last));
    return out;
}
