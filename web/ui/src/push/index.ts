// Web Push: the browser's maker wakes this browser when the chat is closed. The server sends to its service; what
// passes is encrypted for this browser and says only in which chat something is new.
import { type MatrixClient, Method } from "matrix-js-sdk";
import { locale, t } from "../i18n";
import { navigate } from "../router";

export type PushProblem = "denied" | "unreachable" | "server";
export class PushError extends Error {
    constructor(
        readonly kind: PushProblem,
        cause?: unknown,
    ) {
        super(kind, { cause });
    }
}

const key = "hf.push";
const script = "/push.js";

export const pushSupported = (): boolean => "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
/** pushWanted says whether the person has turned it on in this browser. */
export const pushWanted = (): boolean => pushSupported() && Notification.permission === "granted" && localStorage.getItem(key) === "on";

interface Server {
    key: string;
    app_id: string;
}
const ofServer = (client: MatrixClient): Promise<Server> => client.http.authedRequest<Server>(Method.Get, "/web_push", undefined, undefined, { prefix: "/_matrix/client/unstable/holdfast" });

const registration = async (): Promise<ServiceWorkerRegistration | undefined> => ("serviceWorker" in navigator ? await navigator.serviceWorker.getRegistration("/") : undefined);

/** notifier shows a notification through the worker where there is one: on phones pages may not do it themselves. */
export async function notify(title: string, options: NotificationOptions, path: string): Promise<void> {
    const r = await registration();
    if (r?.active && pushWanted()) {
        await r.showNotification(title, options);
        return;
    }
    const n = new Notification(title, options);
    n.onclick = () => {
        window.focus();
        navigate(path);
        n.close();
    };
}

/** settle takes away what the worker said of a chat, or with none of all, because it was read. */
export async function settle(roomId?: string): Promise<void> {
    for (const n of (await (await registration())?.getNotifications(roomId ? { tag: roomId } : {})) ?? []) n.close();
}

/** turnPushOn is for a click: the browser may ask for permission. */
export async function turnPushOn(client: MatrixClient): Promise<void> {
    if (Notification.permission === "default") await Notification.requestPermission();
    if (Notification.permission !== "granted") throw new PushError("denied");
    try {
        await subscribe(client);
    } catch (e) {
        if (e instanceof PushError) throw e;
        throw new PushError("server", e);
    }
    localStorage.setItem(key, "on");
}

/** turnPushOff ends the subscription; the server forgets it when it is asked to, or at the next message. */
export async function turnPushOff(client: MatrixClient): Promise<void> {
    localStorage.removeItem(key);
    const p256dh = await unsubscribe();
    if (!p256dh) return;
    const { app_id } = await ofServer(client);
    await client.removePusher(p256dh, app_id);
}

/** forgetPush ends the subscription of a browser that signs out. */
export async function forgetPush(): Promise<void> {
    localStorage.removeItem(key);
    await unsubscribe();
    await (await registration())?.unregister();
}

async function unsubscribe(): Promise<string | undefined> {
    const s = await (await registration())?.pushManager?.getSubscription();
    if (!s) return undefined;
    const p256dh = s.toJSON().keys?.["p256dh"];
    await s.unsubscribe();
    return p256dh;
}

/** keepPush sees to it that what the browser has and what the server knows are the same: browsers renew subscriptions. */
export async function keepPush(client: MatrixClient): Promise<void> {
    if (pushWanted()) await subscribe(client);
}

async function subscribe(client: MatrixClient): Promise<void> {
    const server = await ofServer(client);
    await navigator.serviceWorker.register(script, { scope: "/", updateViaCache: "none" });
    const r = await navigator.serviceWorker.ready;
    const wanted = bytesOf(server.key);
    let s = await r.pushManager.getSubscription();
    const known = s?.options.applicationServerKey;
    if (s && known && !same(new Uint8Array(known), wanted)) {
        await s.unsubscribe(); // of another server, or an older key
        s = null;
    }
    try {
        s ??= await r.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: wanted });
    } catch (e) {
        throw new PushError(e instanceof DOMException && e.name === "NotAllowedError" ? "denied" : "unreachable", e);
    }
    const { endpoint, keys } = s.toJSON();
    if (!endpoint || !keys?.["p256dh"] || !keys["auth"]) throw new PushError("unreachable");
    await client.setPusher({
        kind: "http",
        app_id: server.app_id,
        app_display_name: t("app.name"),
        device_display_name: t("push.device"),
        pushkey: keys["p256dh"],
        lang: locale,
        append: false,
        data: { url: `${location.origin}/_matrix/push/v1/notify`, format: "event_id_only", endpoint, auth: keys["auth"] } as { url: string; format: string },
    });
}

/** onPushOpened follows a click on a notification of the worker. */
export function onPushOpened(): () => void {
    if (!("serviceWorker" in navigator)) return () => undefined;
    const follow = (e: MessageEvent): void => {
        const m = e.data as { type?: unknown; path?: unknown } | null;
        if (m?.type === "open" && typeof m.path === "string" && /^\/(chat\/[^/]+)?$/.test(m.path)) navigate(m.path);
    };
    navigator.serviceWorker.addEventListener("message", follow);
    navigator.serviceWorker.startMessages();
    return () => navigator.serviceWorker.removeEventListener("message", follow);
}

/** bytesOf reads base64url. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
    return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
}

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((x, i) => x === b[i]);
