import { describe, expect, it } from "vitest";
import { format } from ".";
import en from "./en.json";

describe("format", () => {
    it.each([
        ["plain", {}, "plain"],
        ["{a} and {b}", { a: "x", b: "y" }, "x and y"],
        ["{n}", { n: 12345 }, "12,345"],
        ["{missing}", {}, "{missing}"],
        ["{n, plural, one {# thing} other {# things}}", { n: 1 }, "1 thing"],
        ["{n, plural, one {# thing} other {# things}}", { n: 0 }, "0 things"],
        ["{n, plural, =0 {none} one {one} other {# of {name}}}", { n: 0, name: "x" }, "none"],
        ["{n, plural, =0 {none} one {one} other {# of {name}}}", { n: 2000, name: "x" }, "2,000 of x"],
        ["a {n, plural, one {b} other {c}} d", { n: 2 }, "a c d"],
        ["{a}", { a: "{b}", b: "no" }, "{b}"],
    ])("%s", (text, params, want) => expect(format(text, params)).toBe(want));
});

it("every text has matching braces and no white space at its ends", () => {
    for (const [key, text] of Object.entries(en)) {
        let depth = 0;
        for (const c of text) depth += c === "{" ? 1 : c === "}" ? -1 : 0;
        expect(depth, key).toBe(0);
        expect(text === text.trim() || key === "security.save.file", key).toBe(true);
    }
});
