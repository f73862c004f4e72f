// Signing in by OAuth 2.0: authorization code with PKCE, at this server's own identity service. The client is
// static and trusted by the server, so there is no registration and no consent page.
import { OAuth2, isValidAuthMetadata, type ValidatedAuthMetadata } from "matrix-js-sdk/lib/oauth";
import { t } from "../i18n";
import { answer, clientId, homeserver, LoginError } from "./place";
import { dropSession, loadSession, saveSession, wipeDatabases, type Session } from "./store";

const redirectUri = `${location.origin}/`;
const pendingKey = "hf.login.";

interface Pending {
    deviceId: string;
    codeVerifier: string;
    returnTo: string;
}

/** metadata is what the identity service says of itself. Errors: LoginError. */
export async function metadata(): Promise<ValidatedAuthMetadata> {
    let res: Response;
    try {
        res = await fetch(`${homeserver}/_matrix/client/v1/auth_metadata`);
    } catch (e) {
        throw new LoginError("offline", e);
    }
    const body: unknown = await res.json().catch(() => undefined);
    if (!res.ok || !isValidAuthMetadata(body)) throw new LoginError("server", body);
    return body;
}

const random = (): string => Array.from(crypto.getRandomValues(new Uint8Array(24)), (b) => b.toString(16).padStart(2, "0")).join("");

/** startLogin leaves for the sign-in page. A device whose keys are still here signs in as itself again. */
export async function startLogin(returnTo: string, prompt?: "create"): Promise<void> {
    const known = loadSession();
    const oauth = new OAuth2(await metadata(), { clientId, ...(known ? { deviceId: known.deviceId } : {}) });
    const state = random();
    const pending: Pending = { deviceId: oauth.context.deviceId, codeVerifier: oauth.context.codeVerifier, returnTo };
    sessionStorage.setItem(pendingKey + state, JSON.stringify(pending));
    location.assign(await oauth.generateAuthorizationCodeGrantUrl(state, redirectUri, "fragment", prompt));
}

/** finishLogin takes the code of the sign-in page to the server and keeps the session. Gives the place to go to. */
export async function finishLogin(): Promise<string> {
    const got = answer();
    const state = got.get("state") ?? "";
    const stored = sessionStorage.getItem(pendingKey + state);
    history.replaceState(null, "", "/");
    if (got.get("error")) throw new LoginError("denied", got.get("error_description") ?? got.get("error"));
    if (!stored) throw new LoginError("expired");
    sessionStorage.removeItem(pendingKey + state);
    const pending = JSON.parse(stored) as Pending;
    const oauth = new OAuth2(await metadata(), { clientId, deviceId: pending.deviceId, codeVerifier: pending.codeVerifier });
    let tokens;
    try {
        tokens = await oauth.completeAuthorizationCodeGrant(got.get("code") ?? "", redirectUri);
    } catch (e) {
        throw new LoginError("expired", e);
    }
    await adopt(tokens);
    return pending.returnTo;
}

/** adopt keeps a session that the server gave, and what this browser has of it if it had it before. */
export async function adopt(tokens: { access_token: string; refresh_token?: string }): Promise<void> {
    const who = await whoami(tokens.access_token);
    const session: Session = { userId: who.user_id, deviceId: who.device_id, accessToken: tokens.access_token, refreshToken: tokens.refresh_token ?? "" };
    const before = loadSession();
    if (before && (before.userId !== session.userId || before.deviceId !== session.deviceId)) {
        // Someone else, or a new device: what the old one kept here must not be shown to them.
        dropSession();
        await wipeDatabases();
    }
    saveSession(session);
    if (!before) await nameDevice(session).catch((e: unknown) => console.warn("naming the device failed", e));
}

async function whoami(token: string): Promise<{ user_id: string; device_id: string }> {
    const res = await fetch(`${homeserver}/_matrix/client/v3/account/whoami`, { headers: { authorization: `Bearer ${token}` } });
    const body = (await res.json()) as { user_id?: string; device_id?: string };
    if (!res.ok || !body.user_id || !body.device_id) throw new LoginError("server", body);
    return { user_id: body.user_id, device_id: body.device_id };
}

// nameDevice tells the person's devices apart in the list of devices.
async function nameDevice(session: Session): Promise<void> {
    await fetch(`${homeserver}/_matrix/client/v3/devices/${encodeURIComponent(session.deviceId)}`, {
        method: "PUT",
        headers: { authorization: `Bearer ${session.accessToken}`, "content-type": "application/json" },
        body: JSON.stringify({ display_name: deviceName(navigator.userAgent) }),
    });
}

/** deviceName names a browser by what it says of itself. */
export function deviceName(agent: string): string {
    const pick = (known: [RegExp, string][]): string | undefined => known.find(([re]) => re.test(agent))?.[1];
    const browser = pick([[/\bEdg/, "Edge"], [/\bOPR\//, "Opera"], [/\bFirefox\/|\bFxiOS\//, "Firefox"], [/\b(Headless)?Chrom(e|ium)\/|\bCriOS\//, "Chrome"], [/\bSafari\//, "Safari"]]);
    const system = pick([[/\biPhone\b/, "iPhone"], [/\biPad\b/, "iPad"], [/\bAndroid\b/, "Android"], [/\bWindows\b/, "Windows"], [/\bMac OS X\b/, "macOS"], [/\bCrOS\b/, "ChromeOS"], [/\bLinux\b/, "Linux"]]);
    return browser && system ? t("session.device", { browser, system }) : (browser ?? system ?? t("app.name"));
}
