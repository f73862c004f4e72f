// Files on their way out: encrypted where the chat is, with progress, cancel and retry. One list for the whole
// client, so that changing to another chat does not stop an upload.
import { EventType, type MatrixClient, MsgType } from "matrix-js-sdk";
import { useSyncExternalStore } from "react";
import { encryptAttachment, type EncryptedFile } from "./attachments";
import { safeType } from "./media";

export interface Upload {
    id: string;
    roomId: string;
    file: File;
    caption: string;
    /** A blob address of a picture, while it is on its way. */
    preview: string | undefined;
    /** 0 to 1. */
    progress: number;
    state: "waiting" | "sending" | "failed";
    /** Why it failed. */
    problem: "tooLarge" | "offline" | "refused" | undefined;
}

interface Measured {
    width: number;
    height: number;
    durationMs?: number;
    thumbnail?: { blob: Blob; width: number; height: number };
}

const thumbnailSide = 800;

export class Uploads {
    private list: Upload[] = [];
    private readonly listeners = new Set<() => void>();
    private readonly aborts = new Map<string, AbortController>();
    private queue: Promise<void> = Promise.resolve();
    private next = 1;

    constructor(private readonly client: MatrixClient) {}

    subscribe = (l: () => void): (() => void) => {
        this.listeners.add(l);
        return () => this.listeners.delete(l);
    };
    snapshot = (): Upload[] => this.list;

    private set(id: string, change: Partial<Upload> | undefined): void {
        this.list = change ? this.list.map((u) => (u.id === id ? { ...u, ...change } : u)) : this.list.filter((u) => u.id !== id);
        for (const l of this.listeners) l();
    }

    /** add queues files; they go out one after the other, in the order in which they were picked. */
    add(roomId: string, files: File[], caption = "", replyTo?: string): void {
        files.forEach((file, i) => {
            const id = `upload ${this.next++}`;
            const preview = file.type.startsWith("image/") && safeType(file.type) === file.type ? URL.createObjectURL(file) : undefined;
            this.list = [...this.list, { id, roomId, file, caption: i === 0 ? caption : "", preview, progress: 0, state: "waiting", problem: undefined }];
            this.run(id, i === 0 ? replyTo : undefined);
        });
        for (const l of this.listeners) l();
    }

    retry(id: string): void {
        this.set(id, { state: "waiting", progress: 0, problem: undefined });
        this.run(id);
    }

    /** retryOffline sends again what failed only because the server could not be reached. */
    retryOffline(): void {
        for (const u of this.list) if (u.state === "failed" && u.problem === "offline") this.retry(u.id);
    }

    cancel(id: string): void {
        this.aborts.get(id)?.abort();
        this.drop(id);
    }

    private drop(id: string): void {
        const preview = this.list.find((u) => u.id === id)?.preview;
        if (preview) setTimeout(() => URL.revokeObjectURL(preview), 5000);
        this.set(id, undefined);
    }

    private run(id: string, replyTo?: string): void {
        this.queue = this.queue.then(() => this.send(id, replyTo));
    }

    private async send(id: string, replyTo?: string): Promise<void> {
        const upload = this.list.find((u) => u.id === id);
        if (!upload) return;
        const { file, roomId, caption } = upload;
        const abort = new AbortController();
        this.aborts.set(id, abort);
        this.set(id, { state: "sending" });
        try {
            const limit = (await this.client.getMediaConfig(true).catch(() => undefined))?.["m.upload.size"];
            if (limit && file.size > limit) return this.set(id, { state: "failed", problem: "tooLarge" });
            const encrypted = !!(await this.client.getCrypto()?.isEncryptionEnabledInRoom(roomId));
            const measured = await measure(file).catch(() => undefined);
            if (abort.signal.aborted) return;
            const put = async (blob: Blob, name: string, onProgress?: (done: number) => void): Promise<{ url: string } | { file: EncryptedFile }> => {
                const options = {
                    abortController: abort,
                    includeFilename: !encrypted,
                    name,
                    progressHandler: ({ loaded, total }: { loaded: number; total: number }) => onProgress?.(total ? loaded / total : 0),
                };
                if (!encrypted) return { url: (await this.client.uploadContent(blob, { ...options, type: blob.type || "application/octet-stream" })).content_uri };
                const sealed = await encryptAttachment(await blob.arrayBuffer());
                const { content_uri: url } = await this.client.uploadContent(new Blob([sealed.data]), { ...options, type: "application/octet-stream" });
                return { file: { ...sealed.file, url } };
            };
            const thumb = measured?.thumbnail && (await put(measured.thumbnail.blob, "thumbnail"));
            const main = await put(file, file.name, (p) => this.set(id, { progress: p }));
            if (abort.signal.aborted) return;
            const content: Record<string, unknown> = {
                msgtype: kind(file),
                body: caption || file.name,
                filename: file.name,
                ...main,
                info: {
                    mimetype: file.type || "application/octet-stream",
                    size: file.size,
                    ...(measured ? { w: measured.width, h: measured.height, ...(measured.durationMs ? { duration: measured.durationMs } : {}) } : {}),
                    ...(measured?.thumbnail && thumb
                        ? {
                              thumbnail_info: { w: measured.thumbnail.width, h: measured.thumbnail.height, mimetype: measured.thumbnail.blob.type, size: measured.thumbnail.blob.size },
                              ...("file" in thumb ? { thumbnail_file: thumb.file } : { thumbnail_url: thumb.url }),
                          }
                        : {}),
                },
                "m.mentions": {},
                ...(replyTo ? { "m.relates_to": { "m.in_reply_to": { event_id: replyTo } } } : {}),
            };
            // From here on the message is in the timeline, and a failure is shown and retried there.
            void this.client.sendEvent(roomId, EventType.RoomMessage, content as never).catch(() => undefined);
            this.drop(id);
        } catch (e) {
            if (abort.signal.aborted) return;
            const status = (e as { httpStatus?: number }).httpStatus;
            this.set(id, { state: "failed", problem: status === 413 ? "tooLarge" : status ? "refused" : "offline" });
        } finally {
            this.aborts.delete(id);
        }
    }
}

function kind(file: File): MsgType {
    const type = safeType(file.type);
    if (type.startsWith("image/")) return MsgType.Image;
    if (type.startsWith("video/")) return MsgType.Video;
    if (type.startsWith("audio/")) return MsgType.Audio;
    return MsgType.File;
}

async function measure(file: File): Promise<Measured | undefined> {
    switch (kind(file)) {
        case MsgType.Image: {
            const bitmap = await createImageBitmap(file);
            try {
                const { width, height } = bitmap;
                const big = Math.max(width, height) > thumbnailSide || file.size > 500_000;
                // A thumbnail of an animation would stand still.
                const thumbnail = big && file.type !== "image/gif" ? await shrink(bitmap, width, height) : undefined;
                return { width, height, ...(thumbnail ? { thumbnail } : {}) };
            } finally {
                bitmap.close();
            }
        }
        case MsgType.Video:
            return measureVideo(file);
        default:
            return undefined;
    }
}

async function shrink(source: CanvasImageSource, width: number, height: number): Promise<{ blob: Blob; width: number; height: number } | undefined> {
    const scale = Math.min(1, thumbnailSide / Math.max(width, height));
    const w = Math.max(1, Math.round(width * scale));
    const h = Math.max(1, Math.round(height * scale));
    const canvas = document.createElement("canvas");
    canvas.width = w;
    canvas.height = h;
    canvas.getContext("2d")?.drawImage(source, 0, 0, w, h);
    const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/jpeg", 0.8));
    return blob ? { blob, width: w, height: h } : undefined;
}

async function measureVideo(file: File): Promise<Measured | undefined> {
    const address = URL.createObjectURL(file);
    try {
        const video = document.createElement("video");
        video.muted = true;
        video.preload = "auto";
        const ready = new Promise<void>((ok, no) => {
            video.onloadeddata = () => ok();
            video.onerror = () => no(new Error("not a video"));
            setTimeout(() => no(new Error("timeout")), 8000);
        });
        video.src = address;
        await ready;
        const { videoWidth: width, videoHeight: height, duration } = video;
        if (!width || !height) return undefined;
        const thumbnail = await shrink(video, width, height);
        return { width, height, ...(Number.isFinite(duration) ? { durationMs: Math.round(duration * 1000) } : {}), ...(thumbnail ? { thumbnail } : {}) };
    } finally {
        URL.revokeObjectURL(address);
    }
}

const all = new WeakMap<MatrixClient, Uploads>();
/** uploadsOf gives the one list of uploads of a client. */
export function uploadsOf(client: MatrixClient): Uploads {
    let u = all.get(client);
    if (!u) all.set(client, (u = new Uploads(client)));
    return u;
}

export function useUploads(client: MatrixClient, roomId: string): Upload[] {
    const uploads = uploadsOf(client);
    return useSyncExternalStore(uploads.subscribe, uploads.snapshot).filter((u) => u.roomId === roomId);
}
