// Only one tab at a time may hold the keys of a session: two would overwrite each other's key store. The tab that
// asks last gets it; the other is told, stops its client and lets go.
const name = "hf-session";
const channel = new BroadcastChannel(name);

export interface Held {
    release: () => void;
}

/**
 * acquire takes the session for this tab. Without force it gives undefined when another tab has it; with force the
 * other tab is asked to let go, and loses it after five seconds in any case. onLost is called when that happens to
 * this tab; it must stop everything and then the lock is gone.
 */
export async function acquire(force: boolean, onLost: () => Promise<void>): Promise<Held | undefined> {
    if (force) channel.postMessage("let go");
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
                };
                channel.addEventListener("message", onMessage);
                resolve({ release });
            });
        };
        if (!force) {
            void navigator.locks.request(name, { ifAvailable: true }, hold);
            return;
        }
        const patience = new AbortController();
        const timer = setTimeout(() => patience.abort(), 5000);
        navigator.locks
            .request(name, { signal: patience.signal }, (lock) => (clearTimeout(timer), hold(lock)))
            .catch(() => navigator.locks.request(name, { steal: true }, hold).catch(onLost));
    });
}
