// The JSON API of the setup wizard and the console.
import { t } from "../i18n";

/** ApiError is an answer that is no success; its message is meant for people. */
export class ApiError extends Error {
    constructor(
        readonly status: number,
        readonly code: string,
        message: string,
        /** The input it is about, as in the request ("admin.password"). */
        readonly field?: string,
    ) {
        super(message);
    }
}

let proof: (() => Promise<boolean>) | undefined;

/** onReauth says how a person proves anew who they are; ask is true once they did, false if they will not. */
export function onReauth(ask: (() => Promise<boolean>) | undefined): void {
    proof = ask;
}

/** proved does something, and again where the server first wants to know who asks. What was typed stays. */
async function proved<T>(act: () => Promise<T>): Promise<T> {
    try {
        return await act();
    } catch (e) {
        if (e instanceof ApiError && e.code === "reauth" && proof && (await proof())) return await act();
        throw e;
    }
}

export const api = <T>(method: "GET" | "POST" | "PUT" | "DELETE", path: string, body?: object, background = false): Promise<T> => proved(() => call<T>(method, path, body, background));

async function call<T>(method: string, path: string, body?: object, background = false): Promise<T> {
    let res: Response;
    try {
        res = await fetch(path, {
            method,
            cache: "no-store",
            credentials: "same-origin",
            headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...(background ? { "holdfast-background": "1" } : {}) },
            ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        });
    } catch {
        throw new ApiError(0, "unreachable", t("setup.unreachable"));
    }
    return answer<T>(res.status, await res.text());
}

/** upload sends a file as it is; progress gets the part that has been sent, 0 to 1. */
export const upload = <T>(path: string, file: Blob, progress: (part: number) => void): Promise<T> => proved(() => send<T>(path, file, progress));

function send<T>(path: string, file: Blob, progress: (part: number) => void): Promise<T> {
    return new Promise((resolve, reject) => {
        const x = new XMLHttpRequest();
        x.open("POST", path);
        x.upload.onprogress = (e) => e.lengthComputable && progress(e.loaded / e.total);
        x.onload = () => {
            try {
                resolve(answer<T>(x.status, x.responseText));
            } catch (e) {
                reject(e as Error);
            }
        };
        x.onerror = () => reject(new ApiError(0, "unreachable", t("setup.unreachable")));
        x.setRequestHeader("content-type", "application/octet-stream");
        x.send(file);
    });
}

function answer<T>(status: number, text: string): T {
    let json: unknown;
    try {
        json = JSON.parse(text);
    } catch {
        throw new ApiError(status, "bad_answer", t("setup.badAnswer", { status: String(status) }));
    }
    if (status >= 200 && status < 300) return json as T;
    const e = (json as { error?: { code?: string; message?: string; field?: string } }).error;
    throw new ApiError(status, e?.code ?? "unknown", e?.message ?? t("setup.badAnswer", { status: String(status) }), e?.field);
}

export type TlsMode = "own-ca" | "files" | "acme" | "off";

export interface Tls {
    mode: TlsMode;
    fixed: boolean;
    ca_fingerprint?: string;
    ca_url?: string;
}

export interface State {
    state: "unclaimed" | "claimed";
    proved: boolean;
    organisation: string;
    server_name: string;
    server_name_fixed: boolean;
    public_url: string;
    tls: Tls;
    version: string;
    /** On a machine of the appliance's own, for the browser that proved the code. */
    disk?: DiskState;
    clock?: ClockState;
}

export interface DiskState {
    encrypted: boolean;
    tpm: boolean;
    passphrase: boolean;
    device: string;
    bytes: number;
    warning?: string;
}

export interface ClockState {
    now: string;
    source: "rtc" | "kernel" | "mark" | "build" | "ntp" | "administrator";
    synced?: string;
    servers: string[];
    alarm?: string;
}

export interface Finished {
    restart: boolean;
    url: string;
    user_id: string;
}

export interface Invite {
    id: string;
    url?: string;
    localpart?: string;
    roles?: ("owner" | "admin" | "moderator" | "auditor")[];
    groups?: string[];
    uses: number;
    used: number;
    by?: string;
    created: string;
    expires: string;
    revoked: boolean;
    qr_svg?: string;
}

export interface Check {
    name: "login" | "message" | "media" | "call";
    ok: boolean;
    detail: string;
    ms: number;
}

export const messageOf = (e: unknown): string => (e instanceof Error ? e.message : String(e));
