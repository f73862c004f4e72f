import { expect, test } from "vitest";
import decodeQR from "qr/decode.js";
import { linkPage } from "./qr";
import { modules } from "./qrcode";

// read decodes the squares as a camera would find them, four pixels each.
function read(rows: boolean[][]): Uint8Array {
    const scale = 4;
    const side = rows.length * scale;
    const data = new Uint8Array(side * side * 4).fill(255);
    for (let y = 0; y < side; y++)
        for (let x = 0; x < side; x++) if (rows[Math.floor(y / scale)]![Math.floor(x / scale)]) data.fill(0, (y * side + x) * 4, (y * side + x) * 4 + 3);
    const text = decodeQR({ width: side, height: side, data }, { timeLimit: 5000, textDecoder: (bytes) => String.fromCharCode(...bytes) });
    return Uint8Array.from(text!, (c) => c.charCodeAt(0));
}

test("a code has the bytes that it was made of, whatever they are", () => {
    const all = Uint8Array.from({ length: 256 }, (_, i) => i);
    for (const bytes of [Uint8Array.of(0), all.slice(0, 170), all, all.slice().reverse()]) expect([...read(modules(bytes))]).toEqual([...bytes]);
});

test("the page where a device is let in is always this server's", () => {
    expect(linkPage("https://hs.test/link?user_code=BCDF-GHJK")).toBe("/link?user_code=BCDF-GHJK");
    expect(linkPage("https://evil.test/phish?user_code=BCDF-GHJK")).toBe("/link?user_code=BCDF-GHJK");
    expect(linkPage("javascript:alert(1)//?user_code=%22%3E%26next=x")).toBe("/link?user_code=%22%3E%26next%3Dx");
    expect(linkPage(`https://hs.test/link?user_code=${"A".repeat(500)}`)).toBe(`/link?user_code=${"A".repeat(64)}`);
    for (const none of ["https://hs.test/link", "nonsense", "", undefined]) expect(linkPage(none)).toBe("/link");
});
