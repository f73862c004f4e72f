// Encryption of attachments: AES-CTR with a fresh key for each file, whose hash is checked before decryption.
// Spec: cs#sending-encrypted-attachments
export interface EncryptedFile {
    v: "v2";
    url: string;
    key: { alg: "A256CTR"; ext: true; k: string; key_ops: string[]; kty: "oct" };
    iv: string;
    hashes: { sha256: string };
}

export class AttachmentError extends Error {}

const subtle = (): SubtleCrypto => globalThis.crypto.subtle;
// The last 64 bits count blocks: at 16 bytes each they never run over into the random half.
const counterBits = 64;

export function toBase64(bytes: Uint8Array): string {
    let s = "";
    for (let i = 0; i < bytes.length; i += 0x8000) s += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
    return btoa(s).replace(/=+$/, "");
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
    let s: string;
    try {
        s = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    } catch (e) {
        throw new AttachmentError("not base64", { cause: e });
    }
    const out = new Uint8Array(s.length);
    for (let i = 0; i < s.length; i++) out[i] = s.charCodeAt(i);
    return out;
}

/** encryptAttachment gives the ciphertext and the block for the event, still without its url. */
export async function encryptAttachment(plain: ArrayBuffer): Promise<{ data: ArrayBuffer; file: Omit<EncryptedFile, "url"> }> {
    const iv = new Uint8Array(16);
    crypto.getRandomValues(iv.subarray(0, 8));
    const key = await subtle().generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const jwk = await subtle().exportKey("jwk", key);
    const data = await subtle().encrypt({ name: "AES-CTR", counter: iv, length: counterBits }, key, plain);
    const hash = await subtle().digest("SHA-256", data);
    return {
        data,
        file: {
            v: "v2",
            key: { alg: "A256CTR", ext: true, k: jwk.k!, key_ops: ["encrypt", "decrypt"], kty: "oct" },
            iv: toBase64(iv),
            hashes: { sha256: toBase64(new Uint8Array(hash)) },
        },
    };
}

/** decryptAttachment checks the hash and gives the plain bytes. Errors: AttachmentError. */
export async function decryptAttachment(data: ArrayBuffer, file: EncryptedFile): Promise<ArrayBuffer> {
    if (file.v !== "v2" || file.key?.alg !== "A256CTR" || !file.hashes?.sha256) throw new AttachmentError("unknown kind of encryption");
    const hash = toBase64(new Uint8Array(await subtle().digest("SHA-256", data)));
    if (hash !== file.hashes.sha256.replace(/=+$/, "")) throw new AttachmentError("the file was changed on its way");
    const iv = fromBase64(file.iv);
    if (iv.length !== 16) throw new AttachmentError("bad initialisation vector");
    let key: CryptoKey;
    try {
        key = await subtle().importKey("jwk", { ...file.key }, { name: "AES-CTR" }, false, ["decrypt"]);
    } catch (e) {
        throw new AttachmentError("bad key", { cause: e });
    }
    return subtle().decrypt({ name: "AES-CTR", counter: iv, length: counterBits }, key, data);
}

/** isEncryptedFile checks the shape of what another client sent. */
export function isEncryptedFile(value: unknown): value is EncryptedFile {
    const f = value as Partial<EncryptedFile> | null;
    return !!f && typeof f === "object" && typeof f.url === "string" && typeof f.iv === "string" && typeof f.key?.k === "string" && typeof f.hashes?.sha256 === "string";
}
