// The service worker that a browser wakes when the server has news for somebody whose chat is closed. It is built as
// /push.js, knows no keys and asks nobody: a message says only in which chat something is new.

/** The texts of the catalogue that this worker shows; the build puts them here. */
declare const pushTexts: Record<string, string>;

interface Window {
    visibilityState: string;
    focus(): Promise<unknown>;
    postMessage(message: unknown): void;
}
interface Waiting extends Event {
    waitUntil(p: Promise<unknown>): void;
}
interface Worker {
    addEventListener(type: "push", f: (e: Waiting & { data: { text(): string } | null }) => void): void;
    addEventListener(type: "notificationclick", f: (e: Waiting & { notification: Notification }) => void): void;
    addEventListener(type: "install" | "activate", f: (e: Waiting) => void): void;
    skipWaiting(): Promise<void>;
    clients: { matchAll(o: object): Promise<Window[]>; openWindow(url: string): Promise<unknown>; claim(): Promise<void> };
    registration: ServiceWorkerRegistration;
}
const worker = self as unknown as Worker;

/** The page notifies by itself while it is open; it is given a moment before something is said in its place. */
const moment = 3000;

worker.addEventListener("install", (e) => e.waitUntil(worker.skipWaiting()));
worker.addEventListener("activate", (e) => e.waitUntil(worker.clients.claim()));
worker.addEventListener("push", (e) => e.waitUntil(show(e.data?.text() ?? "")));
worker.addEventListener("notificationclick", (e) => {
    e.notification.close();
    e.waitUntil(open((e.notification.data as { room?: unknown } | null)?.room));
});

const windows = (): Promise<Window[]> => worker.clients.matchAll({ type: "window", includeUncontrolled: true });

async function show(text: string): Promise<void> {
    let news: { room_id?: unknown; counts?: { unread?: unknown } } = {};
    try {
        news = (JSON.parse(text) ?? {}) as typeof news;
    } catch {
        // It woke us all the same: something is new.
    }
    const room = typeof news.room_id === "string" ? news.room_id : "";
    const tag = room || "news";
    const pages = await windows();
    if (pages.some((p) => p.visibilityState === "visible")) return;
    if (pages.length > 0) {
        await new Promise((ok) => setTimeout(ok, moment));
        if ((await worker.registration.getNotifications({ tag })).length > 0) return;
    }
    const unread = typeof news.counts?.unread === "number" ? news.counts.unread : 1;
    const body = unread > 1 ? pushTexts["push.more"]!.replace("{count}", String(unread)) : pushTexts["push.one"]!;
    await worker.registration.showNotification(pushTexts["app.name"]!, { body, tag, icon: "/icon.svg", data: { room } });
}

async function open(room: unknown): Promise<void> {
    const path = typeof room === "string" && room ? `/chat/${encodeURIComponent(room)}` : "/";
    const [page] = await windows();
    if (!page) {
        await worker.clients.openWindow(path);
        return;
    }
    page.postMessage({ type: "open", path });
    await page.focus().catch(() => undefined); // a browser may forbid it
}
