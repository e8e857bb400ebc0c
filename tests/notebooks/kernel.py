"""A kernel of Jupyter as a module of the tests, so that it may be a fork of a process that has all imports."""

if __name__ == "__main__":
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
