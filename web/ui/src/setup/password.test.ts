import { expect, test } from "vitest";
import { strength } from "./password";

test("refuses what is guessed first", () => {
    for (const p of ["", "short", "password12", "1234567890", "aaaaaaaaaaaa", "qwertyuiop", "Passwort!!"]) expect(strength(p), p).toBe(0);
    expect(strength("adalovelace", ["Ada Lovelace"])).toBe(0);
});

test("prefers long and mixed ones", () => {
    expect(strength("correct horse battery staple")).toBe(4);
    expect(strength("tram kiosk velvet")).toBeGreaterThanOrEqual(3);
    expect(strength("hxdkrmwzqp")).toBeLessThan(strength("hxdkrmwzqpuoetsa"));
    expect(strength("x7!Rq-2vKp_9")).toBeGreaterThanOrEqual(3);
});
