import { describe, expect, it } from "vitest";
import { toContent } from "./markdown";

describe("toContent", () => {
    it.each([
        ["hello"],
        ["two\nlines"],
        ["a web address https://a.test/x"],
        ["5 < 6 & 7 > 3"],
        ["<b>typed tags</b>"],
        ["    pasted with spaces"],
    ])("leaves plain text plain: %s", (text) => {
        const c = toContent(text);
        expect(c.formatted_body).toBeUndefined();
        expect(c.body).toBe(text.trim());
    });
    it.each([
        ["**bold**", "<strong>bold</strong>"],
        ["`code`", "<code>code</code>"],
        ["~~gone~~", "<del>gone</del>"],
        ["**a** <script>x</script>", "<strong>a</strong> &lt;script&gt;x&lt;/script&gt;"],
        ["**a** ![x](https://evil.test/p.png)", "<strong>a</strong> x"],
    ])("formats %s", (text, want) => expect(toContent(text).formatted_body).toBe(want));
    it("keeps the body as it was typed", () => expect(toContent("**a**").body).toBe("**a**"));
    it("makes lists", () => expect(toContent("- a\n- b").formatted_body).toBe("<ul>\n<li>a</li>\n<li>b</li>\n</ul>"));
    it("keeps code in fences as it is", () => expect(toContent("```\n        x < y\n```").formatted_body).toContain("        x &lt; y"));
    it("mentions people", () => {
        const c = toContent("hi @Ann Lee and @Ann", [
            { userId: "@ann:a.test", name: "Ann" },
            { userId: "@ann.lee:a.test", name: "Ann Lee" },
        ]);
        expect(c["m.mentions"].user_ids).toEqual(["@ann:a.test", "@ann.lee:a.test"]);
        expect(c.formatted_body).toBe('hi <a href="https://matrix.to/#/%40ann.lee%3Aa.test">Ann Lee</a> and <a href="https://matrix.to/#/%40ann%3Aa.test">Ann</a>');
    });
    it("forgets mentions that were deleted again", () => expect(toContent("hi", [{ userId: "@ann:a.test", name: "Ann" }])["m.mentions"]).toEqual({}));
    it("finds names with special characters", () => {
        const c = toContent(`@O'Neil <x> & "y"`, [{ userId: "@o:a.test", name: `O'Neil <x> & "y"` }]);
        expect(c.formatted_body).toBe(`<a href="https://matrix.to/#/%40o%3Aa.test">O&#39;Neil &lt;x&gt; &amp; &quot;y&quot;</a>`);
    });
    it("says when everybody is meant", () => expect(toContent("@room fire drill")["m.mentions"].room).toBe(true));
});
