DROP TABLE public.outages;
DROP FUNCTION public.set_updated_at();
