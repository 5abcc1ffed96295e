DROP TABLE public.errors;
DROP TABLE public.meetings;
DROP TABLE public.deployments;
DROP FUNCTION public.set_updated_at();
