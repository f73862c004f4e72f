import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, it } from "vitest";
import { linkify, mentioned, renderHtml, safeLink } from "./html";

const html = (s: string): string => renderToStaticMarkup(<>{renderHtml(s)}</>);

describe("renderHtml", () => {
    it.each([
        ["keeps plain formatting", "<b>a</b> <em>b</em> <code>c</code>", "<b>a</b> <em>b</em> <code>c</code>"],
        ["drops scripts with what is inside", "a<script>alert(1)</script>b", "ab"],
        ["drops event handlers", '<b onclick="x()" onmouseover="y()">a</b>', "<b>a</b>"],
        ["drops styles and classes", '<p style="position:fixed" class="hf-modal" id="root">a</p>', "<p>a</p>"],
        ["never loads pictures", '<img src="https://evil.test/x.png" alt="cat" onerror="x()">', "cat"],
        ["drops embedded pages", '<iframe src="https://evil.test"></iframe><object data="x"></object><embed src="x">', ""],
        ["drops svg and its scripts", "<svg><script>alert(1)</script><a href='javascript:x'>a</a></svg>b", "b"],
        ["drops math, a way around filters", "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>", ""],
        ["drops forms", '<form action="https://evil.test"><input name="password"></form>a', "a"],
        ["keeps the text of unknown tags", "<blink>a</blink>", "a"],
        ["drops the quoted message of older clients", "<mx-reply><blockquote>old</blockquote></mx-reply>new", "new"],
        ["refuses javascript links", '<a href="javascript:alert(1)">a</a>', "a"],
        ["refuses hidden javascript links", '<a href="java\nscript:alert(1)">a</a>', "a"],
        ["refuses data links", '<a href="data:text/html,<script>x</script>">a</a>', "a"],
        ["refuses relative links", '<a href="/console">a</a>', "a"],
        ["does not show headings as headings of the page", "<h1>a</h1>", '<p class="message-heading">a</p>'],
        ["keeps the start of a list", '<ol start="3"><li>a</li></ol>', '<ol start="3"><li>a</li></ol>'],
        ["ignores a bad start", '<ol start="x"><li>a</li></ol>', "<ol><li>a</li></ol>"],
        ["drops white space between table parts", "<table> <tbody> <tr> <td>a</td> </tr> </tbody> </table>", "<table><tbody><tr><td>a</td></tr></tbody></table>"],
    ])("%s", (_name, input, want) => expect(html(input)).toBe(want));

    it("opens links in a new window that knows nothing of this one", () => {
        expect(html('<a href="https://example.org/a?b=1">x</a>')).toBe('<a href="https://example.org/a?b=1" target="_blank" rel="noopener noreferrer nofollow">x</a>');
    });

    it("stops at a great depth and at many nodes", () => {
        expect(html("<b>".repeat(500) + "x").length).toBeLessThan(2000);
        expect(html("<b>x</b>".repeat(20_000)).length).toBeLessThan(60_000);
    });

    it("hands mentions to the caller", () => {
        const out = renderToStaticMarkup(<>{renderHtml('hi <a href="https://matrix.to/#/%40ben%3Achat.test">Ben</a>', { mention: (id, text) => <i>{`${id}=${text}`}</i> })}</>);
        expect(out).toBe("hi <i>@ben:chat.test=Ben</i>");
    });
});

describe("links", () => {
    it("knows which addresses are safe", () => {
        expect(safeLink("https://a.test/")).toBe("https://a.test/");
        expect(safeLink("mailto:a@b.test")).toBe("mailto:a@b.test");
        for (const bad of [null, "", "a.test", "javascript:x", "vbscript:x", "file:///etc/passwd", "blob:https://a.test/x", "data:,x"]) expect(safeLink(bad)).toBeUndefined();
    });
    it("finds people in links", () => {
        expect(mentioned("https://matrix.to/#/@ben:chat.test")).toBe("@ben:chat.test");
        expect(mentioned("https://matrix.to/#/%40ben%3Achat.test?via=x")).toBe("@ben:chat.test");
        expect(mentioned("matrix:u/ben:chat.test")).toBe("@ben:chat.test");
        expect(mentioned("https://matrix.to/#/#room:chat.test")).toBeUndefined();
        expect(mentioned("https://matrix.to/#/@%E0%A4%A")).toBeUndefined();
    });
    it.each([
        ["see https://a.test/x.", "see |https://a.test/x|."],
        ["(https://a.test/x)", "(|https://a.test/x|)"],
        ["https://a.test/x_(y)", "|https://a.test/x_(y)|"],
        ["www.a.test, www.b.test", "|www.a.test|, |www.b.test|"],
        ["no link", "no link"],
    ])("finds addresses in %s", (text, want) => {
        const out = renderToStaticMarkup(<>{linkify(text)}</>);
        expect(out.replaceAll(/<a [^>]*>|<\/a>/g, "|")).toBe(want);
    });
});
