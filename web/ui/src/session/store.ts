// The session of this browser: who is signed in, with which device and tokens. Kept in localStorage; all else
// (messages, keys) is in IndexedDB.
export interface Session {
    userId: string;
    deviceId: string;
    /** Empty after the server ended the session but the keys of this device are still here. */
    accessToken: string;
    refreshToken: string;
}

const key = "hf.session";

export function loadSession(): Session | undefined {
    try {
        const s = JSON.parse(localStorage.getItem(key) ?? "null") as Partial<Session> | null;
        if (s && s.userId && s.deviceId) return { userId: s.userId, deviceId: s.deviceId, accessToken: s.accessToken ?? "", refreshToken: s.refreshToken ?? "" };
    } catch {
        /* damaged: as if signed out */
    }
    return undefined;
}

export function saveSession(session: Session): void {
    localStorage.setItem(key, JSON.stringify(session));
}

export function dropSession(): void {
    localStorage.removeItem(key);
}

/** Names of the IndexedDB databases of a session. */
export const syncDatabase = "hf-sync";
export const cryptoDatabase = "hf-crypto";

/** wipeDatabases removes all messages and keys that this browser holds. Blocked deletions finish when other tabs close. */
export async function wipeDatabases(): Promise<void> {
    const names = [`matrix-js-sdk:${syncDatabase}`, `${cryptoDatabase}::matrix-sdk-crypto`, `${cryptoDatabase}::matrix-sdk-crypto-meta`];
    await Promise.all(
        names.map(
            (name) =>
                new Promise<void>((done) => {
                    const req = indexedDB.deleteDatabase(name);
                    req.onsuccess = req.onerror = req.onblocked = () => done();
                }),
        ),
    );
    for (const k of Object.keys(localStorage)) if ((k.startsWith("hf.") && k !== "hf.theme") || k.startsWith("mxjssdk_")) localStorage.removeItem(k);
}
