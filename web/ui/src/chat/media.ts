// Pictures and files from the server: fetched with the session's token, decrypted where needed, kept as blob
// addresses while somebody looks at them and some time after.
import { useEffect, useState } from "react";
import type { MatrixClient } from "matrix-js-sdk";
import { decryptAttachment, type EncryptedFile } from "./attachments";

/** What a message or a profile points at. */
export type Source = { url: string } | { file: EncryptedFile };

export interface Size {
    width: number;
    height: number;
    /** crop cuts to the exact shape (faces), scale keeps it. */
    method: "crop" | "scale";
}

// What a browser may show itself. Everything else is only ever saved: a page or an SVG from another person,
// opened from a blob address, would run with this site's rights.
const shown = new Set(["image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp", "video/mp4", "video/webm", "video/ogg", "video/quicktime", "audio/mpeg", "audio/mp4", "audio/aac", "audio/ogg", "audio/webm", "audio/wav", "audio/wave", "audio/x-wav", "audio/flac", "audio/x-m4a"]);

export function safeType(type: string | undefined): string {
    const bare = (type ?? "").split(";")[0]!.trim().toLowerCase();
    return shown.has(bare) ? bare : "application/octet-stream";
}

export class MediaError extends Error {
    constructor(readonly status: number) {
        super(`media: ${status}`);
    }
}

/** download fetches bytes; an expired token is renewed once. */
export async function download(client: MatrixClient, source: Source, size?: Size, signal?: AbortSignal): Promise<Blob> {
    const mxc = "file" in source ? source.file.url : source.url;
    const wanted = "file" in source ? undefined : size;
    const scale = Math.min(2, window.devicePixelRatio || 1);
    const address = client.mxcUrlToHttp(mxc, wanted && Math.round(wanted.width * scale), wanted && Math.round(wanted.height * scale), wanted?.method, false, true, true);
    if (!address) throw new MediaError(400);
    const get = (): Promise<Response> => fetch(address, { headers: { authorization: `Bearer ${client.getAccessToken()}` }, ...(signal ? { signal } : {}) });
    let res = await get();
    if (res.status === 401) {
        await client.whoami(); // renews the token
        res = await get();
    }
    if (!res.ok) throw new MediaError(res.status);
    if ("file" in source) return new Blob([await decryptAttachment(await res.arrayBuffer(), source.file)]);
    return res.blob();
}

interface Kept {
    address: Promise<string>;
    users: number;
    made?: string;
}
const kept = new Map<string, Kept>();
const most = 400;

function keyOf(source: Source, size: Size | undefined): string {
    return "file" in source ? source.file.url : `${source.url} ${size ? `${size.width}x${size.height}${size.method}` : ""}`;
}

function hold(client: MatrixClient, source: Source, type: string | undefined, size: Size | undefined): Kept {
    const key = keyOf(source, size);
    let entry = kept.get(key);
    if (entry) {
        kept.delete(key); // moves to the young end
    } else {
        const fresh: Kept = {
            users: 0,
            address: download(client, source, size).then((blob) => {
                fresh.made = URL.createObjectURL(blob.slice(0, blob.size, safeType(type || blob.type)));
                return fresh.made;
            }),
        };
        fresh.address.catch(() => kept.delete(key));
        entry = fresh;
    }
    kept.set(key, entry);
    if (kept.size > most) {
        for (const [k, old] of kept) {
            if (kept.size <= most) break;
            if (old.users > 0) continue;
            if (old.made) URL.revokeObjectURL(old.made);
            kept.delete(k);
        }
    }
    return entry;
}

export interface Media {
    address: string | undefined;
    failed: boolean;
    retry: () => void;
}

/** useMedia gives a blob address for a source; undefined while it loads. */
export function useMedia(client: MatrixClient, source: Source | undefined, options: { type?: string | undefined; size?: Size } = {}): Media {
    const key = source && keyOf(source, options.size);
    const [tries, setTries] = useState(0);
    const [state, setState] = useState<{ key?: string | undefined; address?: string; failed?: boolean }>({});
    useEffect(() => {
        if (!source) return;
        const entry = hold(client, source, options.type, options.size);
        entry.users++;
        let gone = false;
        entry.address.then(
            (address) => gone || setState({ key, address }),
            () => gone || setState({ key, failed: true }),
        );
        return () => {
            gone = true;
            entry.users--;
        };
        // The key stands for source and size.
        // oxlint-disable-next-line react-hooks/exhaustive-deps
    }, [client, key, tries]);
    const current = state.key === key ? state : {};
    return { address: current.address, failed: !!current.failed, retry: () => setTries((n) => n + 1) };
}

/** useFace gives the picture of a person or a chat at the size of an avatar. */
export function useFace(client: MatrixClient, mxc: string | null | undefined, pixels = 40): string | undefined {
    return useMedia(client, mxc?.startsWith("mxc://") ? { url: mxc } : undefined, { size: { width: pixels, height: pixels, method: "crop" } }).address;
}

/** save gives a file to the browser's download. */
export function save(blob: Blob, name: string): void {
    const address = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
    const a = document.createElement("a");
    a.href = address;
    a.download = name;
    a.click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** forgetMedia drops everything at sign-out. */
export function forgetMedia(): void {
    for (const k of kept.values()) if (k.made) URL.revokeObjectURL(k.made);
    kept.clear();
}
