import { describe, expect, it } from "vitest";
import { brief, day, daysAgo, names, size } from "./format";

const now = new Date(2026, 10, 23, 9).getTime();
const at = (d: number, h = 23): number => new Date(2026, 10, 23 - d, h, 30).getTime();

describe("times", () => {
    it("count calendar days", () => {
        expect(daysAgo(at(0, 1), now)).toBe(0);
        expect(daysAgo(at(1), now)).toBe(1);
        expect(daysAgo(new Date(2026, 2, 28).getTime(), new Date(2026, 2, 30).getTime())).toBe(2); // the night of the clock change
    });
    it("are told as people tell them", () => {
        expect(day(at(0), now)).toBe("Today");
        expect(day(at(1), now)).toBe("Yesterday");
        expect(day(at(3), now)).toBe("Friday");
        expect(day(at(30), now)).toMatch(/24/);
        expect(brief(at(0, 8), now)).toBe("08:30");
        expect(brief(at(3), now)).toBe("Friday");
        expect(brief(new Date(2024, 0, 5).getTime(), now)).toMatch(/2024/);
    });
});

it("sizes", () => {
    expect(size(999)).toBe("999 byte");
    expect(size(1500)).toBe("1.5 kB");
    expect(size(25_000_000)).toBe("25 MB");
    expect(size(Number.NaN)).toBe("");
});

it("names", () => {
    expect(names(["a"])).toBe("a");
    expect(names(["a", "b"])).toBe("a and b");
    expect(names(["a", "b", "c", "d", "e"], 3)).toBe("a, b, and 3 more");
});
