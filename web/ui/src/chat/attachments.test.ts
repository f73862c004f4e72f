// @vitest-environment node
import { createDecipheriv, createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { AttachmentError, decryptAttachment, encryptAttachment, type EncryptedFile, fromBase64, isEncryptedFile, toBase64 } from "./attachments";

const bytes = (n: number): Uint8Array<ArrayBuffer> => Uint8Array.from({ length: n }, (_, i) => (i * 7919) % 256);
const seal = async (n: number) => {
    const { data, file } = await encryptAttachment(bytes(n).buffer);
    return { data, file: { ...file, url: "mxc://a/b" } as EncryptedFile };
};

describe("attachments", () => {
    it.each([0, 1, 15, 16, 17, 100_003])("come back as they were: %i bytes", async (n) => {
        const { data, file } = await seal(n);
        expect(data.byteLength).toBe(n);
        expect(new Uint8Array(await decryptAttachment(data, file))).toEqual(bytes(n));
    });

    it("are AES-256-CTR over the whole counter as the specification says", async () => {
        const { data, file } = await seal(5000);
        const key = Buffer.from(file.key.k, "base64url");
        expect(key.length).toBe(32);
        const iv = Buffer.from(file.iv, "base64");
        expect(iv.length).toBe(16);
        expect([...iv.subarray(8)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
        const decipher = createDecipheriv("aes-256-ctr", key, iv);
        expect(new Uint8Array(Buffer.concat([decipher.update(new Uint8Array(data)), decipher.final()]))).toEqual(bytes(5000));
        expect(file.hashes.sha256).toBe(createHash("sha256").update(new Uint8Array(data)).digest("base64").replace(/=+$/, ""));
        expect(file.v).toBe("v2");
        expect(file.key).toMatchObject({ alg: "A256CTR", ext: true, kty: "oct", key_ops: ["encrypt", "decrypt"] });
    });

    it("never use a key or a counter twice", async () => {
        const [a, b] = [await seal(10), await seal(10)];
        expect(a.file.key.k).not.toBe(b.file.key.k);
        expect(a.file.iv).not.toBe(b.file.iv);
    });

    it("that were changed on their way are refused", async () => {
        const { data, file } = await seal(100);
        new Uint8Array(data)[50]! ^= 1;
        await expect(decryptAttachment(data, file)).rejects.toThrow(AttachmentError);
    });

    it.each<[string, (f: EncryptedFile) => unknown]>([
        ["another version", (f) => ({ ...f, v: "v3" })],
        ["another algorithm", (f) => ({ ...f, key: { ...f.key, alg: "A256GCM" } })],
        ["no hash", (f) => ({ ...f, hashes: {} })],
        ["a short counter", (f) => ({ ...f, iv: "AAAA" })],
        ["a counter that is not base64", (f) => ({ ...f, iv: "*" })],
        ["a short key", (f) => ({ ...f, key: { ...f.key, k: "AAAA" } })],
    ])("with %s are refused", async (_name, change) => {
        const { data, file } = await seal(100);
        await expect(decryptAttachment(data, change(file) as EncryptedFile)).rejects.toThrow(AttachmentError);
    });

    it("are known by their shape", async () => {
        const { file } = await seal(1);
        expect(isEncryptedFile(file)).toBe(true);
        for (const bad of [null, undefined, "x", {}, { url: "mxc://a/b" }, { ...file, key: null }, { ...file, url: 3 }]) expect(isEncryptedFile(bad)).toBe(false);
    });
});

it("base64 without padding goes both ways", () => {
    for (let n = 0; n < 40; n++) expect(fromBase64(toBase64(bytes(n)))).toEqual(bytes(n));
    expect(toBase64(bytes(100_000))).toBe(Buffer.from(bytes(100_000)).toString("base64").replace(/=+$/, ""));
});
