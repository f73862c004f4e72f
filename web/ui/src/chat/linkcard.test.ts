// @vitest-environment jsdom
import { describe, expect, it } from "vitest";
import { firstLink } from "./linkcard";

const html = (formatted_body: string, body = "x") => ({ msgtype: "m.text", body, format: "org.matrix.custom.html", formatted_body });

describe("firstLink", () => {
    it("finds the first page that a message shows", () => {
        expect(firstLink({ msgtype: "m.text", body: "see https://a.test/x, and https://b.test" })).toBe("https://a.test/x");
        expect(firstLink({ msgtype: "m.notice", body: "www.a.test" })).toBe("https://www.a.test/");
        expect(firstLink(html('<a href="https://matrix.to/#/@a:b.test">a</a> <a href="mailto:a@b.test">m</a> <a href="https://c.test/">c</a>'))).toBe("https://c.test/");
        expect(firstLink(html("plain https://d.test/"))).toBe("https://d.test/");
    });
    it("leaves out what is hidden, quoted or no page", () => {
        for (const content of [
            { msgtype: "m.text", body: "no link" },
            { msgtype: "m.text", body: "https://a:b@c.test/" },
            { msgtype: "m.text", body: "ftp://a.test/ mailto:a@b.test" },
            { msgtype: "m.image", body: "https://a.test/" },
            { msgtype: "m.text", body: "> <@a:b.test> https://a.test/\n\nyes" },
            { msgtype: "m.text", body: 7 },
            html('<span data-mx-spoiler><a href="https://a.test/">x</a></span>'),
            html('<code>https://a.test/</code><mx-reply><a href="https://a.test/">x</a></mx-reply><blockquote>https://a.test/</blockquote>'),
            html('<a href="javascript:alert(1)">x</a>'),
        ])
            expect(firstLink(content)).toBeUndefined();
    });
});
