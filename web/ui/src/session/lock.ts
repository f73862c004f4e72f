// Only one tab at a time may hold the keys of a session: two would overwrite each other's key store. The tab that
// asks last gets it; the other is told, stops its client and lets go.
const name = "hf-session";
// How long to wait for a lock whose holder does not answer.
const patienceMs = 5000;
const channel = new BroadcastChannel(name);

export interface Held {
    release: () => void;
}

/**
 * acquire takes the session for this tab. Without force it gives undefined when another tab says that it has it: a
 * page that was reloaded may keep the lock for a moment longer, and is waited for. With force the other tab is asked to let go, and loses it after five seconds in any case. onLost is called when that happens to
 * this tab; it must stop everything and then the lock is gone.
 */
export async function acquire(force: boolean, onLost: () => Promise<void>): Promise<Held | undefined> {
    return new Promise((resolve) => {
        const hold = (lock: Lock | null): Promise<void> | undefined => {
            if (!lock) {
                resolve(undefined);
                return undefined;
            }
            return new Promise<void>((free) => {
                const release = (): void => {
                    channel.removeEventListener("message", onMessage);
                    free();
                };
                const onMessage = (e: MessageEvent): void => {
                    if (e.data === "let go") void onLost().finally(release);
                    else if (e.data === "who has it") channel.postMessage("it is here");
                };
                channel.addEventListener("message", onMessage);
                resolve({ release });
            });
        };
        const patience = new AbortController();
        const timer = setTimeout(() => patience.abort(), patienceMs);
        const onAnswer = (e: MessageEvent): void => {
            if (!force && e.data === "it is here") patience.abort();
        };
        channel.addEventListener("message", onAnswer);
        const asked = (): void => {
            clearTimeout(timer);
            channel.removeEventListener("message", onAnswer);
        };
        navigator.locks
            .request(name, { signal: patience.signal }, (lock) => (asked(), hold(lock)))
            .catch(() => {
                asked();
                if (force) return navigator.locks.request(name, { steal: true }, hold).catch(onLost);
                return resolve(undefined);
            });
        channel.postMessage(force ? "let go" : "who has it");
    });
}
