// The chosen theme: system, light or dark. public/theme.js applies it before the first paint.
import { useSyncExternalStore } from "react";

export type Theme = "system" | "light" | "dark";
const key = "hf.theme";
const listeners = new Set<() => void>();

function current(): Theme {
    const v = localStorage.getItem(key);
    return v === "light" || v === "dark" ? v : "system";
}

export function setTheme(theme: Theme): void {
    if (theme === "system") {
        localStorage.removeItem(key);
        delete document.documentElement.dataset["theme"];
    } else {
        localStorage.setItem(key, theme);
        document.documentElement.dataset["theme"] = theme;
    }
    for (const l of listeners) l();
}

export function useTheme(): Theme {
    return useSyncExternalStore((l) => (listeners.add(l), () => listeners.delete(l)), current);
}
