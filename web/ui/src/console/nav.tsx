// The console's pages and the way between them: a column of groups beside the page, and behind one button where there
// is no room for a column. A page is added to its group here and drawn in index.tsx; its title is
// console.<page>.title. Groups without a page that the person may see are not shown.
import { type RefObject, useEffect, useId, useRef, useState } from "react";
import { Icon } from "../design";
import { type Key, t } from "../i18n";
import { navigate } from "../router";

export const sections = [
    { title: undefined, pages: ["status"] },
    { title: "console.nav.people", pages: ["people", "groups", "invites", "cards", "lists"] },
    { title: "console.nav.signIn", pages: ["signin", "directories", "upstreams", "apps"] },
    { title: "console.nav.messages", pages: ["calls", "push", "bridges"] },
    { title: "console.nav.appliance", pages: ["settings", "machine", "audit"] },
] as const satisfies readonly { title: Key | undefined; pages: readonly string[] }[];

export type Page = (typeof sections)[number]["pages"][number];

export const allPages: readonly Page[] = sections.flatMap((s) => s.pages as readonly Page[]);

/** Nav leads to the pages. Whoever goes to another one by it lands in main, so that the keyboard and screen readers go on there. */
export function Nav({ pages, page, main }: { pages: readonly Page[]; page: Page; main: RefObject<HTMLElement | null> }) {
    const [open, setOpen] = useState(false);
    const id = useId();
    const button = useRef<HTMLButtonElement>(null);
    useEffect(() => setOpen(false), [page]);
    const go = (p: Page): void => {
        setOpen(false);
        navigate(`/console/${p}`);
        window.scrollTo(0, 0);
        main.current?.focus({ preventScroll: true });
    };
    return (
        <nav
            className="console-nav"
            aria-label={t("console.title")}
            onKeyDown={(e) => {
                if (e.key !== "Escape" || !open) return;
                setOpen(false);
                button.current?.focus();
            }}
        >
            <button ref={button} type="button" className="console-nav-open" aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}>
                <Icon name={open ? "close" : "menu"} />
                <span>{t(`console.${page}.title`)}</span>
            </button>
            <div id={id} className="console-nav-list" data-open={open || undefined}>
                {sections.map(({ title, pages: all }) => {
                    const shown = (all as readonly Page[]).filter((p) => pages.includes(p));
                    if (!shown.length) return null;
                    const heading = title && `${id}-${title}`;
                    return (
                        <div key={title ?? ""} className="console-nav-group">
                            {title && (
                                <span id={heading} className="console-nav-title">
                                    {t(title)}
                                </span>
                            )}
                            <ul aria-labelledby={heading}>
                                {shown.map((p) => (
                                    <li key={p}>
                                        <a
                                            href={`/console/${p}`}
                                            aria-current={p === page ? "page" : undefined}
                                            onClick={(e) => {
                                                if (e.metaKey || e.ctrlKey || e.shiftKey || e.button !== 0) return;
                                                e.preventDefault();
                                                go(p);
                                            }}
                                        >
                                            {t(`console.${p}.title`)}
                                        </a>
                                    </li>
                                ))}
                            </ul>
                        </div>
                    );
                })}
            </div>
        </nav>
    );
}
