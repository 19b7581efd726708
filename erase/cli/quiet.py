"""What other libraries print while they load, kept off the terminal."""


def quiet_libraries() -> None:
    """Turn off the bars that diffusers and transformers draw while they load."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
