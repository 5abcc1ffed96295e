DROP TABLE public.events;
DROP TABLE public.subscriptions;
DROP TABLE public.accounts;
DROP FUNCTION public.set_updated_at();
