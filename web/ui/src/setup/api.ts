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

export async function api<T>(method: "GET" | "POST" | "DELETE", path: string, body?: object): Promise<T> {
    let res: Response;
    try {
        res = await fetch(path, {
            method,
            cache: "no-store",
            credentials: "same-origin",
            ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
        });
    } catch {
        throw new ApiError(0, "unreachable", t("setup.unreachable"));
    }
    const text = await res.text();
    let json: unknown;
    try {
        json = JSON.parse(text);
    } catch {
        throw new ApiError(res.status, "bad_answer", t("setup.badAnswer", { status: String(res.status) }));
    }
    if (res.ok) return json as T;
    const e = (json as { error?: { code?: string; message?: string; field?: string } }).error;
    throw new ApiError(res.status, e?.code ?? "unknown", e?.message ?? t("setup.badAnswer", { status: String(res.status) }), e?.field);
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
