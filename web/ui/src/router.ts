// A router as small as the product's needs: the path is the place.
//   /setup, /console        their own parts
//   /chat/<room id>         a chat          /settings/<section>  settings
//   /                       the list of chats
import { useSyncExternalStore } from "react";

const listeners = new Set<() => void>();
function notify(): void {
    for (const l of listeners) l();
}
window.addEventListener("popstate", notify);

function subscribe(l: () => void): () => void {
    listeners.add(l);
    return () => listeners.delete(l);
}

/** usePath gives the current path and follows it. */
export function usePath(): string {
    return useSyncExternalStore(subscribe, () => location.pathname);
}

/** navigate goes to a path of this application; replace leaves no entry in the history. */
export function navigate(path: string, options: { replace?: boolean } = {}): void {
    if (options.replace) history.replaceState(null, "", path);
    else if (path !== location.pathname) history.pushState(null, "", path);
    notify();
}
